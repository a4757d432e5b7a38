// @ts-check
/**
 * Errors of sections and of changes of their entries.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const STATE = {
  ERR_FDB_SCHEMA: {
    cause: "A section's schema is wrong, or this version may not read the section",
    remedy: 'Run a release that can read it (see the message), or rename the section',
  },
  ERR_FDB_STATE_KEY: {
    cause: 'A key is not a string',
    remedy: 'Use `String(key)`',
  },
  ERR_FDB_STATE_VALUE: {
    cause: 'The codec cannot encode the value, or cannot decode the stored bytes',
    remedy: 'Correct the value; overwrite or delete an unreadable entry',
  },
  ERR_FDB_STATE_REQUEST: {
    cause: 'The `request` id was already used for another change',
    remedy: 'Give each change its own id',
  },
  ERR_FDB_STATE_LIMIT: {
    cause: 'A key, a value, a record or the log exceeds the limit in the message',
    remedy: 'Make it smaller, or raise the limit (`stateLimits`) in all processes',
  },
  ERR_FDB_STATE_BACKPRESSURE: {
    cause: 'More changes wait than `waitingWrites` and `waitingBytes` allow',
    remedy: 'Try again when earlier changes have been made',
  },
  ERR_FDB_STATE_FULL: {
    cause: 'There is no memory for the record; earlier entries are intact',
    remedy: 'Free memory, or raise the limit: of the control group, or RLIMIT_FSIZE, if the message names it',
  },
  ERR_FDB_STATE_CLOSED: {
    cause: 'The state log is closed, because its member has left',
    remedy: 'Write before that, or call `join()` again',
  },
  ERR_FDB_STATE_MOVED: {
    cause: 'The requested value is no longer in the log: the log was compacted, or the entry changed',
    remedy: 'Read the state again; read `previous` before the `onChange` listener returns',
  },
}

/**
 * Errors of the log, which consists of segments.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const LOG = {
  ERR_FDB_STATE_FORMAT: {
    cause: 'The bytes are not a state log, or have another format version',
    remedy: 'Use a file that fd-broker wrote, or the release that wrote it',
  },
  ERR_FDB_STATE_DAMAGED: {
    cause: 'A record was changed after it was written, or the state file is too short',
    remedy: 'Use a copy; or keep the part before the damage: `fd-broker state repair --file PATH`',
  },
  ERR_FDB_STATE_ORDER: {
    cause: 'A segment was adopted or written out of order',
    remedy: 'Adopt the snapshot first, then rising epochs',
  },
  ERR_FDB_STATE_BEHIND: {
    cause: 'A segment that was reported as read has unread bytes',
    remedy: 'Adopt it, or read it to its end first',
  },
  ERR_FDB_STATE_SEAL: {
    cause: 'A memory file cannot be sealed, or another process sealed it too early',
    remedy: 'Try again; see the cause',
  },
  ERR_FDB_STATE_IO: {
    cause: 'Appending to the log failed',
    remedy: 'See the cause',
  },
}

/**
 * Errors of the state file.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const STATE_FILE = {
  ERR_FDB_STATE_FILE: {
    cause: 'The state file cannot be read or written, or is not trusted',
    remedy: 'See the message. A durable change with `details.made` was made, and is written to disk later',
  },
  ERR_FDB_STATE_FILE_IN_USE: {
    cause: 'Another process, with another control path, writes the state file',
    remedy:
      'Start at the control path of that process (`details.pid`), to take over from it, or give another `stateFile`',
  },
}

/**
 * Errors of `fd-broker state`.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const SOURCES = {
  ERR_FDB_SOURCE: {
    cause: 'The store of a source could not be read; the section keeps its entries',
    remedy: 'None: the source is tried again. The message names the store and why',
  },
}

export const STATE_TOOLS = {
  ERR_FDB_STATE_SOURCE: {
    cause: 'No state was named, or two states were named',
    remedy: 'Give `--control` or `--file` (`-` is standard input)',
  },
  ERR_FDB_STATE_NO_ENTRY: {
    cause: 'There is no section or key of this name',
    remedy: '`fd-broker state show` lists them',
  },
  ERR_FDB_STATE_SECRET: {
    cause: 'The values of a secret section were omitted',
    remedy: 'Use `--secrets` to show or export them',
  },
  ERR_FDB_STATE_DIGEST: {
    cause: 'The entries do not match their digest',
    remedy: 'Use another copy; if you edited the file, give `--edited`',
  },
  ERR_FDB_STATE_IMPORT: {
    cause: 'The file cannot be imported; nothing was imported',
    remedy: 'Give the whole output of `state export`, with its first line',
  },
  ERR_FDB_STATE_DIFFERENT: {
    cause: 'The two states differ (`state diff`, exit code 1)',
    remedy: 'None: this is the result',
  },
}
