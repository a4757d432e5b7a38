// @ts-check
/**
 * Arguments of a call.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const CALLER = {
  ERR_FDB_OPTION: {
    cause: 'An unknown option, or an invalid value',
    remedy: 'The message names it, and the likely meaning',
  },
  ERR_FDB_EVENT: {
    cause: 'An unknown event: a listener would wait for it in vain',
    remedy: 'The message lists the known events',
  },
  ERR_FDB_LIMIT: {
    cause: 'A limit of a channel is no whole number, or more than frames can carry',
    remedy: 'Give a number within what the message says',
  },
  ERR_FDB_FD_CLOSED: {
    cause: 'An owned descriptor was used after it was closed or given away',
    remedy: 'Take a `dup()` for a second user',
  },
  ERR_FDB_COMMAND_UNKNOWN: {
    cause: 'An operator sent a command for which the service has no handler',
    remedy: 'The message lists those that it has; a newer version may have more',
  },
  ERR_FDB_COMMAND_SIZE: {
    cause: 'A command, or the answer to one, has more bytes than are sent at once',
    remedy: 'Divide it',
  },
  ERR_FDB_NO_STANDBY: {
    cause: '`fd-broker rollback` without a standby: the probation is over, or this version was the first',
    remedy: 'Upgrade to the release before: `fd-broker upgrade -- COMMAND`',
  },
  ERR_FDB_HELD_ALONE: {
    cause: '`fd-broker stop` of a daemon that has listeners or state which no living member has',
    remedy: 'Start a member, or stop it with `--drop`: they are lost then',
  },
  ERR_FDB_FD_UNKNOWN: {
    cause: 'The daemon holds no descriptor of that name: it was never put, was removed, or its lease is over',
    remedy: '`fd-broker fd list` shows those that there are',
  },
  ERR_FDB_FD_TAKEN: {
    cause: 'The daemon holds a descriptor of that name already',
    remedy: 'Choose another name, or say that it is to be replaced',
  },
  ERR_FDB_FD_CLAIMED: {
    cause: 'Another process has claimed this descriptor exclusively; the message names it',
    remedy: 'Try again when it has released it, or has ended',
  },
}

/**
 * Of `listen()` and `serve()`.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const LISTENERS = {
  ERR_FDB_SPEC: {
    cause: 'The description of a listener is wrong: the message says which part',
    remedy: 'Correct it: `tcp://HOST:PORT`, `udp://HOST:PORT`, `unix:/path`',
  },
  ERR_FDB_ADDRESS_IN_USE: {
    cause: 'Another process has the address; the message names it where the kernel tells',
    remedy: 'Join it at its control socket to take the address over, end it, or choose another address',
  },
  ERR_FDB_BIND_DENIED: {
    cause: 'This user may not bind the address',
    remedy: 'Give the capability `CAP_NET_BIND_SERVICE`, a higher port, or the right to write in the folder',
  },
  ERR_FDB_BIND: {
    cause: 'The address cannot be bound for another reason, which the message gives',
    remedy: 'As the message says: often an address that this machine does not have',
  },
  ERR_FDB_LISTENER_TWICE: {
    cause: 'A listener of that name was asked for before',
    remedy: 'Share what `listen()` returned',
  },
  ERR_FDB_TOO_MANY_NAMES: {
    cause: 'A service has as many listeners and named descriptors as it may',
    remedy: 'Use fewer, or several services',
  },
  ERR_FDB_SHARE: {
    cause:
      'A user other than the daemon’s has as many connections, watches, descriptors with claims, or services of it as one user may',
    remedy:
      'Close some, or start the daemon with more descriptors (`ulimit -n`, `LimitNOFILE=`): the shares are parts of that',
  },
  ERR_FDB_SIDE_FILE: {
    cause:
      'A file beside the control socket (`PATH.members`) is a link, belongs to another user, or may be written by others; it is not read',
    remedy: 'Remove it, and keep the control socket in a folder of its own with mode 0700',
  },
  ERR_FDB_SERVICE_LIMIT: {
    cause:
      'A service of a daemon, or the daemon, has as much as its configuration lets it have, or 1,024 processes follow one service, or drain: the message says of what',
    remedy:
      'Drop descriptors or members that are not needed, or raise the limit and send the daemon a HUP; the limit of followers is fixed',
  },
  ERR_FDB_NOT_A_SERVER: {
    cause: '`serve()` was given an app or a function',
    remedy: 'Give the server that Node made; the message says where it is',
  },
  ERR_FDB_SERVER_LISTENS: {
    cause: '`serve()` was given a server that listens by itself, so the listener would be without a server',
    remedy: 'Do not call its `listen()`',
  },
  ERR_FDB_SERVER_TWICE: {
    cause: 'The server was given to a listener before, and a server accepts on one only',
    remedy: 'Give each listener a server of its own',
  },
  ERR_FDB_SERVER_CLOSED: {
    cause: 'The server was closed while it was being attached',
    remedy: 'Do not call its `close()`: the library takes it off',
  },
  ERR_FDB_UNSERVED: {
    cause:
      'This version would leave clients unaccepted: a listener that it took over has no server, or the incumbent has opened one while this version started',
    remedy:
      'Call `serve()` before `ready()`, or start the upgrade again; `ready({ unserved: [NAME] })` where it is meant (the descriptor is borrowed later)',
  },
}

/**
 * Who may use the control socket, and what stands at its path.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const CONTROL = {
  ERR_FDB_CONTROL_PATH: {
    cause:
      'The control socket cannot be made or reached: its folder is missing or not safe, or something else stands at the path',
    remedy: 'Use a folder of your own, mode 0700, on a local file system; the message says what is wrong',
  },
  ERR_FDB_CONTROL_TAKEN: {
    cause:
      'Another process holds the control path of the daemon, or of the `fd-broker run`, that was to start, and this one cannot take over from it (`takeOver`). In the log of a process that serves: its control path or lock file was removed, and another process has taken the place',
    remedy: 'End it (have a `run` upgrade: `fd-broker upgrade`), or give the new one another path',
  },
  ERR_FDB_PATH_TOO_LONG: {
    cause: 'The path of the control socket is longer than 106 bytes to serve there, or 107 to connect',
    remedy: 'Choose a shorter folder, for example under `/run`',
  },
  ERR_FDB_DENIED: {
    cause:
      'The other side belongs to another user: the client, the listening process, the owner of the folder or of the descriptor; or the configuration of a daemon does not allow it',
    remedy: 'Run as the user that the message names, or as root; or have the rule that it names allow it',
  },
  ERR_FDB_FOREIGN: {
    cause:
      'Another program listens on the control path; or a process of fd-broker does whose lock file was removed, in another network namespace or of a release before 0.4',
    remedy: 'Stop it, or choose another path',
  },
  ERR_FDB_NOT_FD_BROKER: {
    cause: 'The other side does not speak this protocol, or another framing of it',
    remedy: 'Check the path; use releases that share a framing version',
  },
  ERR_FDB_NO_HOLDER: {
    cause: 'Nothing listens on the control path',
    remedy: 'Start the service, or the daemon; check the path',
  },
  ERR_FDB_ACCEPT: {
    cause: 'Accepting on the control socket failed (logged, and tried again)',
    remedy: 'Raise `RLIMIT_NOFILE`, or the limit that the message names',
  },
}

/**
 * What the system has not, or gives no more of.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const MACHINE = {
  ERR_FDB_NODE: {
    cause:
      'This version of Node differs inside from those on which this release was tried; it is logged, at the start or when it is first needed',
    remedy:
      'The message names it, and the consequence: run a named version of Node, or a newer release of fd-broker',
  },
  ERR_FDB_PLATFORM: {
    cause: 'Windows has no descriptors that move between processes',
    remedy: 'Run it on Linux; macOS compiles, and is not tested',
  },
  ERR_FDB_ADDON: {
    cause:
      'The addon could not be loaded: the message names each file that was looked for, and what was wrong with it',
    remedy:
      'Install the package again if files are missing. Where no prebuilt addon fits the platform, the processor or the C library: build it, see [install.md](install.md)',
  },
  ERR_FDB_NO_DESCRIPTORS: {
    cause: 'The process has as many descriptors open as it may',
    remedy: 'Raise `RLIMIT_NOFILE` (`ulimit -n`, `LimitNOFILE=`)',
  },
  ERR_FDB_NO_SEALS: {
    cause:
      'The kernel has no memory files that can be sealed, or a filter of system calls refuses `memfd_create`: connections cannot move; or the file in its place cannot be made in `TMPDIR`',
    remedy:
      'Run Linux 5.10 or newer, and allow `memfd_create` in the filter; without it connections drain. Or set `TMPDIR` to a folder that can be written to',
  },
  ERR_FDB_NO_PROC: {
    cause:
      'There is no `/proc` in the mount namespace of this process: memory files cannot be opened read-only',
    remedy: 'Mount it there: `mount -t proc proc /proc`',
  },
  ERR_FDB_INTERNAL: {
    cause:
      'The exception has no code of this library: see the cause. A hook of the application threw it, or it is a bug of ours',
    remedy: 'Correct the hook that it names; else please report it with the stack',
  },
}
