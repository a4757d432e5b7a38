// @ts-check
/**
 * Errors of arguments and of operators' commands.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const CALLER = {
  ERR_FDB_OPTION: {
    cause: 'An option is unknown, or its value is invalid',
    remedy: 'The message names it, and suggests the right one',
  },
  ERR_FDB_EVENT: {
    cause: 'The event does not exist',
    remedy: 'The message lists the known ones',
  },
  ERR_FDB_LIMIT: {
    cause: 'A limit of a channel is not a whole number, or exceeds what frames can carry',
    remedy: 'Give a number in the range of the message',
  },
  ERR_FDB_FD_CLOSED: {
    cause: 'An owned descriptor was used after it was closed or given away',
    remedy: 'Use `dup()` for a second user',
  },
  ERR_FDB_COMMAND_UNKNOWN: {
    cause: "The service has no handler for an operator's command",
    remedy: 'The message lists its commands',
  },
  ERR_FDB_COMMAND_SIZE: {
    cause: 'A command or its answer is too large',
    remedy: 'Split it',
  },
  ERR_FDB_NO_STANDBY: {
    cause: '`fd-broker rollback` found no standby, or one that cannot take over',
    remedy: 'Upgrade to the previous release: `fd-broker upgrade -- COMMAND`',
  },
  ERR_FDB_HELD_ALONE: {
    cause:
      '`fd-broker stop` would lose listeners or state that no living member has, or a service of a daemon has no member to stop',
    remedy: 'Start a member, or use `--drop`',
  },
  ERR_FDB_FD_UNKNOWN: {
    cause: 'The daemon holds no descriptor of this name',
    remedy: '`fd-broker fd list` shows the names',
  },
  ERR_FDB_FD_TAKEN: {
    cause: 'The daemon already holds a descriptor of this name',
    remedy: 'Choose another name, or use `--replace`',
  },
  ERR_FDB_FD_CLAIMED: {
    cause: 'Another process has claimed this descriptor exclusively',
    remedy: 'Try again later',
  },
}

/**
 * Errors of `listen()` and `serve()`.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const LISTENERS = {
  ERR_FDB_SPEC: {
    cause: 'The address of a listener is invalid',
    remedy: 'Correct it: `tcp://HOST:PORT`, `udp://HOST:PORT`, `unix:/path`',
  },
  ERR_FDB_ADDRESS_IN_USE: {
    cause: 'Another process uses the address',
    remedy: 'Join or end that process, or choose another address',
  },
  ERR_FDB_BIND_DENIED: {
    cause: 'This user may not bind the address',
    remedy: 'Give `CAP_NET_BIND_SERVICE`, a higher port, or the right to write in the folder',
  },
  ERR_FDB_BIND: {
    cause: 'The address cannot be bound',
    remedy: 'Check that this machine has the address',
  },
  ERR_FDB_LISTENER_TWICE: {
    cause: 'A listener of that name exists already',
    remedy: 'Use the listener that `listen()` returned; give a held descriptor another name',
  },
  ERR_FDB_TOO_MANY_NAMES: {
    cause: 'A service has reached the highest number of listeners and named descriptors',
    remedy: 'Use fewer, or several services',
  },
  ERR_FDB_SHARE: {
    cause: 'A user other than the daemon’s has reached its share of descriptors or bytes',
    remedy:
      'Close some, complete or read its messages, or give the daemon more descriptors (`ulimit -n`, `LimitNOFILE=`)',
  },
  ERR_FDB_SIDE_FILE: {
    cause:
      '`PATH.members` beside the control socket is a link, other users may write it, or it cannot be written',
    remedy: 'Remove it, use your own control folder with mode 0700, and make room there',
  },
  ERR_FDB_SERVICE_LIMIT: {
    cause:
      'A configured limit is reached, or the limit of 1,024 followers or draining processes of a service',
    remedy: 'Drop descriptors or members; or raise the limit and send HUP',
  },
  ERR_FDB_NOT_A_SERVER: {
    cause: '`serve()` was given an app or a function',
    remedy: "Pass Node's server; the message says where to find it",
  },
  ERR_FDB_SERVER_LISTENS: {
    cause: '`serve()` was given a server that listens already',
    remedy: 'Do not call its `listen()`',
  },
  ERR_FDB_SERVER_TWICE: {
    cause: 'The server already serves another listener',
    remedy: 'Give each listener its own server',
  },
  ERR_FDB_SERVER_CLOSED: {
    cause: 'The server was closed while `serve()` attached it',
    remedy: 'Do not call its `close()`: the library detaches it',
  },
  ERR_FDB_UNSERVED: {
    cause: 'A listener would have no server',
    remedy: 'Call `serve()` before `ready()`, or `ready({ unserved: [NAME] })`',
  },
}

/**
 * Errors of the control socket: its path, and the right to use it.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const CONTROL = {
  ERR_FDB_CONTROL_PATH: {
    cause: 'The control socket cannot be created or reached',
    remedy: 'Use your own folder, mode 0700, on a local file system',
  },
  ERR_FDB_CONTROL_TAKEN: {
    cause: 'Another process uses the control path, or took it when its file was removed',
    remedy: 'Upgrade or end that process, or choose another path',
  },
  ERR_FDB_PATH_TOO_LONG: {
    cause: 'The control path is longer than 106 bytes',
    remedy: 'Choose a shorter folder, for example under `/run`',
  },
  ERR_FDB_DENIED: {
    cause: "The other process belongs to another user, or a daemon's rule forbids the action",
    remedy: 'Run as the user in the message, or as root; or change the rule',
  },
  ERR_FDB_FOREIGN: {
    cause:
      'On the control path listens another program, or fd-broker in another network namespace or before 0.4',
    remedy: 'Stop it, or choose another path',
  },
  ERR_FDB_NOT_FD_BROKER: {
    cause: 'The other process does not speak this protocol, or uses another framing version',
    remedy: 'Check the path; use releases with the same framing version',
  },
  ERR_FDB_NO_HOLDER: {
    cause: 'No process listens on the control path',
    remedy: 'Start the service or the daemon; check the path',
  },
  ERR_FDB_ACCEPT: {
    cause: 'Accepting on the control socket failed (it is logged and retried)',
    remedy: 'Raise `RLIMIT_NOFILE`, or the limit in the message',
  },
}

/**
 * Errors of the system: missing features and exhausted resources.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const MACHINE = {
  ERR_FDB_NODE: {
    cause: 'This Node version has other internals than the tested ones (logged)',
    remedy: 'Use a Node version from the message, or a newer fd-broker',
  },
  ERR_FDB_PLATFORM: {
    cause: 'Windows cannot pass descriptors between processes; Bun and Deno lack functions of libuv',
    remedy: 'Use Linux, and start the program with `node`; macOS compiles but is untested',
  },
  ERR_FDB_ADDON: {
    cause: 'The addon could not be loaded; the message lists the files that were tried',
    remedy: 'Install the package again, or [build the addon](install.md#building-from-source)',
  },
  ERR_FDB_NO_DESCRIPTORS: {
    cause: 'The process has reached its limit of open descriptors',
    remedy: 'Raise `RLIMIT_NOFILE` (`ulimit -n`, `LimitNOFILE=`)',
  },
  ERR_FDB_NO_SEALS: {
    cause:
      'There are no sealable memory files, so connections cannot move; or the file used instead cannot be created in `TMPDIR`',
    remedy: 'Allow `memfd_create`, or set `TMPDIR` to a writable folder',
  },
  ERR_FDB_NO_PROC: {
    cause: 'This mount namespace has no `/proc`',
    remedy: 'Mount it: `mount -t proc proc /proc`',
  },
  ERR_FDB_INTERNAL: {
    cause: 'An exception without a code: in a hook of the application, or a bug in fd-broker',
    remedy: 'Fix the hook; otherwise report it with the stack',
  },
}
