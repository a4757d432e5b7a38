// @ts-check
/**
 * Frames and descriptors between two processes.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const CHANNEL = {
  ERR_FDB_CHANNEL_CLOSED: {
    cause: 'The connection was closed before the answer',
    remedy: 'Connect again; see `status`',
  },
  ERR_FDB_CHANNEL_RESET: {
    cause: 'The connection was closed with unread data',
    remedy: 'Connect again',
  },
  ERR_FDB_CHANNEL_TRUNCATED: {
    cause: 'The connection was closed within a message',
    remedy: 'Connect again',
  },
  ERR_FDB_CHANNEL_FULL: {
    cause: 'More bytes wait than `maxQueuedBytes` allows',
    remedy: 'Await earlier sends, or raise it',
  },
  ERR_FDB_CHANNEL_STARTED: {
    cause: 'The channel was started before',
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
    cause: 'The other side sent an invalid message',
    remedy: 'It is faulty, or of an incompatible release',
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
    cause: 'Descriptors were lost on arrival: this process has reached its limit',
    remedy: 'Raise `RLIMIT_NOFILE`, and try again',
  },
  ERR_FDB_FDS_MISSING: {
    cause: 'Fewer descriptors arrived than announced',
    remedy: 'The other side is faulty, or a program in between',
  },
  ERR_FDB_FDS_UNEXPECTED: {
    cause: 'Descriptors arrived that no message claims',
    remedy: 'The other side is faulty',
  },
  ERR_FDB_FDS_MANY: {
    cause: 'The other side never completes a bundle of descriptors',
    remedy: 'It is faulty',
  },
  ERR_FDB_FDS_REFUSED: {
    cause: 'The other side takes no descriptors: `SO_PASSRIGHTS` is off, or a policy forbids it',
    remedy: 'Allow it (SELinux, AppArmor, seccomp)',
  },
  ERR_FDB_FD_MISMATCH: {
    cause: 'A descriptor is not as announced',
    remedy: 'The other side is faulty',
  },
  ERR_FDB_NO_PIDFD: {
    cause: 'A process sent no pidfd as its proof of life',
    remedy: 'It is faulty',
  },
}

/**
 * Why a connection stays in the process that has it; counted under `refused` in `status`.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const MOVING = {
  ERR_FDB_NO_TARGET: {
    cause: "This version has no server, or no hooks, for the connection's protocol",
    remedy: 'Give `serve()` the hooks of the version before',
  },
  ERR_FDB_HOOK: {
    cause: '`serialize()` did not return a `Uint8Array`',
    remedy: 'Return bytes at once, or `undefined` for "not now"',
  },
  ERR_FDB_CONNECTION: {
    cause: "A connection's record cannot be read, or its descriptor is no connection",
    remedy: 'It ends where it is: the versions disagree',
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
    cause: 'The shared log of a move is invalid: no connection moves',
    remedy: 'The other side is faulty',
  },
}
