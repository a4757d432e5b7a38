// @ts-check
/**
 * Errors of frames and descriptors between two processes.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const CHANNEL = {
  ERR_FDB_CHANNEL_CLOSED: {
    cause: 'The connection was closed before the answer',
    remedy: 'Connect again; see `status`',
  },
  ERR_FDB_CHANNEL_RESET: {
    cause: 'The connection was closed while data were unread',
    remedy: 'Connect again',
  },
  ERR_FDB_CHANNEL_TRUNCATED: {
    cause: 'The connection was closed inside a message',
    remedy: 'Connect again',
  },
  ERR_FDB_CHANNEL_FULL: {
    cause: 'More bytes wait than `maxQueuedBytes` allows',
    remedy: 'Await earlier sends, or raise it',
  },
  ERR_FDB_CHANNEL_STARTED: {
    cause: 'The channel was started twice',
    remedy: 'Start it once',
  },
  ERR_FDB_SEND: {
    cause: 'Sending failed',
    remedy: 'See the cause',
  },
  ERR_FDB_RECEIVE: {
    cause: 'Receiving failed',
    remedy: 'See the cause',
  },
  ERR_FDB_MESSAGE: {
    cause: 'The other process sent an invalid message',
    remedy: 'It is faulty, or an incompatible release',
  },
  ERR_FDB_FRAME_TOO_LARGE: {
    cause: 'A message exceeds the limit of a frame',
    remedy: 'Split it, or raise the limit on both sides',
  },
  ERR_FDB_FRAME_TOO_MANY_FDS: {
    cause: 'A message has more descriptors than a frame takes',
    remedy: 'Send them in several messages',
  },
  ERR_FDB_FDS_TRUNCATED: {
    cause: 'Received descriptors were lost, because this process has reached its limit',
    remedy: 'Raise `RLIMIT_NOFILE`, and try again',
  },
  ERR_FDB_FDS_MISSING: {
    cause: 'Fewer descriptors arrived than announced',
    remedy: 'The other process, or a program between, is faulty',
  },
  ERR_FDB_FDS_UNEXPECTED: {
    cause: 'Descriptors arrived that no message announced',
    remedy: 'The other process is faulty',
  },
  ERR_FDB_FDS_MANY: {
    cause: 'The other process does not complete a bundle of descriptors',
    remedy: 'It is faulty',
  },
  ERR_FDB_FDS_REFUSED: {
    cause: 'The other process accepts no descriptors: `SO_PASSRIGHTS` is off, or a policy forbids it',
    remedy: 'Allow it (SELinux, AppArmor, seccomp)',
  },
  ERR_FDB_FD_MISMATCH: {
    cause: 'A descriptor differs from its announcement',
    remedy: 'The other process is faulty',
  },
  ERR_FDB_NO_PIDFD: {
    cause: 'A process sent no pidfd',
    remedy: 'The process is faulty',
  },
}

/**
 * Reasons for which a connection does not move to the successor. `status` counts them as `refused`.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const MOVING = {
  ERR_FDB_NO_TARGET: {
    cause: "This version has no server or hooks for the connection's protocol",
    remedy: 'Give `serve()` the hooks of the previous version',
  },
  ERR_FDB_HOOK: {
    cause: '`serialize()` did not return a `Uint8Array`',
    remedy: 'Return bytes synchronously, or `undefined` for "not now"',
  },
  ERR_FDB_SOCKET_IO: {
    cause:
      'The installed release of `socket.io` has other internals than the tested ones: its sessions do not move',
    remedy: 'Install a release of `socket.io` from the message, or a newer fd-broker',
  },
  ERR_FDB_WS: {
    cause:
      'The installed release of `ws`, or this Node, has other internals than the tested ones: WebSockets do not move',
    remedy: 'Install a release of `ws` from the message, or a newer fd-broker',
  },
  ERR_FDB_CONNECTION: {
    cause: "A connection's record cannot be read, or its descriptor is no connection",
    remedy: 'The versions are incompatible; the connection stays in the process that sent it',
  },
  ERR_FDB_CONNECTION_LARGE: {
    cause: "A connection's record is larger than a message (4 MiB)",
    remedy: 'Let `serialize()` return less',
  },
  ERR_FDB_REFUSED: {
    cause: 'The successor refused a connection without a code',
    remedy: 'Read its log',
  },
  ERR_FDB_MOVE_LOG: {
    cause: 'The shared log of a move is invalid; no connection moves',
    remedy: 'The other process is faulty',
  },
}
