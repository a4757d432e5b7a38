// @ts-check
/**
 * Sections and the changes of their entries.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const STATE = {
  ERR_FDB_SCHEMA: {
    cause: "A section's schema is wrong, or was written by a version that this one may not read",
    remedy: 'Run a release that reads it (the message has the versions), or rename the section',
  },
  ERR_FDB_STATE_KEY: {
    cause: 'A key is no string',
    remedy: 'Use `String(key)`',
  },
  ERR_FDB_STATE_VALUE: {
    cause: 'The codec does not take the value, or cannot read the stored bytes',
    remedy: 'Correct the value; overwrite or delete what cannot be read',
  },
  ERR_FDB_STATE_REQUEST: {
    cause: 'The `request` id belongs to another change',
    remedy: 'Give each change its own id',
  },
  ERR_FDB_STATE_LIMIT: {
    cause: 'A key, a value, a record or the log exceeds the limit in the message',
    remedy: 'Make it smaller, or raise the limit (`stateLimits`) in every process that reads the log',
  },
  ERR_FDB_STATE_BACKPRESSURE: {
    cause: 'More changes wait than `waitingWrites` and `waitingBytes` allow',
    remedy: 'Try again when earlier ones have settled',
  },
  ERR_FDB_STATE_FULL: {
    cause: 'There is no memory for the record; earlier entries stay whole',
    remedy: 'Free memory, or raise the limit of the control group',
  },
  ERR_FDB_STATE_CLOSED: {
    cause: 'The state log was closed: its member has left',
    remedy: 'Write earlier; `join()` again',
  },
  ERR_FDB_STATE_MOVED: {
    cause: 'The entry is not in the log any more: it was compacted, or changed',
    remedy: 'Begin again; read `previous` before the listener returns',
  },
}

/**
 * The log: segments, their order, their bytes.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const LOG = {
  ERR_FDB_STATE_FORMAT: {
    cause: 'The bytes are no state log, or of another format',
    remedy: 'Give a file that fd-broker wrote, or use the release that did',
  },
  ERR_FDB_STATE_DAMAGED: {
    cause: 'A record was changed after it was written, or a state file is shorter than when it was synced',
    remedy: 'Use another copy; or keep the part before the damage: `fd-broker state repair --file PATH`',
  },
  ERR_FDB_STATE_ORDER: {
    cause: 'A segment was adopted or written out of order',
    remedy: 'Adopt the snapshot first, then rising epochs',
  },
  ERR_FDB_STATE_BEHIND: {
    cause: 'A segment that was taken as read has unread bytes',
    remedy: 'Adopt it, or catch up first',
  },
  ERR_FDB_STATE_SEAL: {
    cause: 'A memory file cannot be sealed, or another process sealed it while it was filled',
    remedy: 'Try again; see the cause',
  },
  ERR_FDB_STATE_IO: {
    cause: 'Appending to the log failed',
    remedy: 'See the cause',
  },
}

/**
 * The state on the disk.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const STATE_FILE = {
  ERR_FDB_STATE_FILE: {
    cause: 'The state file cannot be read or written, or is not trusted',
    remedy: 'See the message. A durable change with `details.made` is made in memory, and written later',
  },
}

/**
 * `fd-broker state`.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const STATE_TOOLS = {
  ERR_FDB_STATE_SOURCE: {
    cause: 'No state was named, or two',
    remedy: 'Give `--control` or `--file` (`-` is standard input)',
  },
  ERR_FDB_STATE_NO_ENTRY: {
    cause: 'There is no section or key of that name',
    remedy: '`fd-broker state show` lists them',
  },
  ERR_FDB_STATE_SECRET: {
    cause: "A secret section's values were left out",
    remedy: 'Give `--secrets` to show or export them',
  },
  ERR_FDB_STATE_DIGEST: {
    cause: 'The entries do not match their digest',
    remedy: 'Take another copy; give `--edited` if the change was intended',
  },
  ERR_FDB_STATE_IMPORT: {
    cause: 'An import cannot be read: nothing was imported',
    remedy: 'Give the output of `state export`, with its lines under "sections"',
  },
  ERR_FDB_STATE_DIFFERENT: {
    cause: 'The two states differ (`state diff`, exit code 1)',
    remedy: 'None: it is the answer',
  },
}
