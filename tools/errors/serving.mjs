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
    cause: 'An unknown event',
    remedy: 'The message lists the known ones',
  },
  ERR_FDB_LIMIT: {
    cause: 'A limit of a channel is no whole number, or more than frames can carry',
    remedy: 'Give a number in the range of the message',
  },
  ERR_FDB_FD_CLOSED: {
    cause: 'An owned descriptor was used after it was closed or given away',
    remedy: 'Take a `dup()` for a second user',
  },
  ERR_FDB_COMMAND_UNKNOWN: {
    cause: "The service has no handler for an operator's command",
    remedy: 'The message lists its commands',
  },
  ERR_FDB_COMMAND_SIZE: {
    cause: 'A command, or its answer, is too large to be sent at once',
    remedy: 'Divide it',
  },
  ERR_FDB_NO_STANDBY: {
    cause: '`fd-broker rollback` without a standby',
    remedy: 'Upgrade to the release before: `fd-broker upgrade -- COMMAND`',
  },
  ERR_FDB_HELD_ALONE: {
    cause: '`fd-broker stop` of a daemon with listeners or state that no living member has',
    remedy: 'Start a member, or give `--drop`, which loses them',
  },
  ERR_FDB_FD_UNKNOWN: {
    cause: 'The daemon holds no descriptor of that name',
    remedy: '`fd-broker fd list` shows the names',
  },
  ERR_FDB_FD_TAKEN: {
    cause: 'The daemon holds a descriptor of that name already',
    remedy: 'Choose another name, or ask to replace it',
  },
  ERR_FDB_FD_CLAIMED: {
    cause: 'Another process has claimed this descriptor exclusively',
    remedy: 'Try again later',
  },
}

/**
 * Of `listen()` and `serve()`.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const LISTENERS = {
  ERR_FDB_SPEC: {
    cause: 'The address of a listener is wrong',
    remedy: 'Correct it: `tcp://HOST:PORT`, `udp://HOST:PORT`, `unix:/path`',
  },
  ERR_FDB_ADDRESS_IN_USE: {
    cause: 'Another process has the address',
    remedy: 'Join it, end it, or choose another address',
  },
  ERR_FDB_BIND_DENIED: {
    cause: 'This user may not bind the address',
    remedy: 'Give `CAP_NET_BIND_SERVICE`, a higher port, or the right to write in the folder',
  },
  ERR_FDB_BIND: {
    cause: 'The address cannot be bound',
    remedy: 'Often this machine does not have the address',
  },
  ERR_FDB_LISTENER_TWICE: {
    cause: 'A listener of that name exists',
    remedy: 'Share what `listen()` returned',
  },
  ERR_FDB_TOO_MANY_NAMES: {
    cause: 'A service has the highest number of listeners and named descriptors',
    remedy: 'Use fewer, or several services',
  },
  ERR_FDB_SHARE: {
    cause: 'A user other than the daemon’s has reached its share',
    remedy: 'Close some, or give the daemon more descriptors (`ulimit -n`, `LimitNOFILE=`)',
  },
  ERR_FDB_SIDE_FILE: {
    cause: '`PATH.members` beside the control socket is a link, or others may write it',
    remedy: 'Remove it, and keep the control socket in its own folder with mode 0700',
  },
  ERR_FDB_SERVICE_LIMIT: {
    cause: 'A configured limit is reached, or 1,024 processes follow one service, or drain',
    remedy: 'Drop descriptors or members, or raise the limit and send a HUP',
  },
  ERR_FDB_NOT_A_SERVER: {
    cause: '`serve()` was given an app or a function',
    remedy: "Give Node's server; the message says where it is",
  },
  ERR_FDB_SERVER_LISTENS: {
    cause: '`serve()` was given a server that listens by itself',
    remedy: 'Do not call its `listen()`',
  },
  ERR_FDB_SERVER_TWICE: {
    cause: 'The server serves another listener already',
    remedy: 'Give each listener its own server',
  },
  ERR_FDB_SERVER_CLOSED: {
    cause: 'The server was closed while it was being attached',
    remedy: 'Do not call its `close()`: the library detaches it',
  },
  ERR_FDB_UNSERVED: {
    cause: 'A listener would have no server',
    remedy: 'Call `serve()` before `ready()`; if intended, `ready({ unserved: [NAME] })`',
  },
}

/**
 * Who may use the control socket, and what stands at its path.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const CONTROL = {
  ERR_FDB_CONTROL_PATH: {
    cause: 'The control socket cannot be made or reached',
    remedy: 'Use a folder of your own, mode 0700, on a local file system',
  },
  ERR_FDB_CONTROL_TAKEN: {
    cause: 'Another process holds the control path, or took it when its file was removed',
    remedy: 'Upgrade or end that process, or choose another path',
  },
  ERR_FDB_PATH_TOO_LONG: {
    cause: 'The control path is longer than 106 bytes to serve, or 107 to connect',
    remedy: 'Choose a shorter folder, for example under `/run`',
  },
  ERR_FDB_DENIED: {
    cause: "The other side belongs to another user, or a daemon's rule forbids it",
    remedy: 'Run as the user that the message names, or as root; or change the rule',
  },
  ERR_FDB_FOREIGN: {
    cause:
      'Another program listens on the control path, or a process of fd-broker in another network namespace, or of a release before 0.4',
    remedy: 'Stop it, or choose another path',
  },
  ERR_FDB_NOT_FD_BROKER: {
    cause: 'The other side does not speak this protocol, or another framing of it',
    remedy: 'Check the path; use releases that share a framing version',
  },
  ERR_FDB_NO_HOLDER: {
    cause: 'No process listens on the control path',
    remedy: 'Start the service or the daemon; check the path',
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
    cause: 'The internals of this Node version differ from the tested ones (logged)',
    remedy: 'Run a named version of Node, or a newer release of fd-broker',
  },
  ERR_FDB_PLATFORM: {
    cause: 'Windows has no descriptors that move between processes',
    remedy: 'Run it on Linux; macOS compiles, untested',
  },
  ERR_FDB_ADDON: {
    cause: 'The addon could not be loaded: the message names each file tried',
    remedy: 'Install the package again, or [build the addon](install.md#building-from-source)',
  },
  ERR_FDB_NO_DESCRIPTORS: {
    cause: 'The process has reached its limit of open descriptors',
    remedy: 'Raise `RLIMIT_NOFILE` (`ulimit -n`, `LimitNOFILE=`)',
  },
  ERR_FDB_NO_SEALS: {
    cause:
      'There are no sealable memory files, so connections cannot move; or the file used instead cannot be made in `TMPDIR`',
    remedy: 'Allow `memfd_create`, or set `TMPDIR` to a writable folder',
  },
  ERR_FDB_NO_PROC: {
    cause: 'This mount namespace has no `/proc`',
    remedy: 'Mount it: `mount -t proc proc /proc`',
  },
  ERR_FDB_INTERNAL: {
    cause: 'An exception without a code: of a hook of the application, or a bug of ours',
    remedy: 'Correct the hook; else please report it with the stack',
  },
}
