// @ts-check
/**
 * Sections and the changes of their entries.
 *
 * @satisfies {import('./catalogue.mjs').Explanations}
 */
export const STATE = {
  ERR_FDB_SCHEMA: {
    cause:
      'A section cannot be registered or read: its schema is wrong, or was written by a version that this one may not read',
    remedy:
      'The message names section and versions; run a release that reads it, or give the section another name',
  },
  ERR_FDB_STATE_KEY: {
    cause: 'A key is no text',
    remedy: '`String(key)` makes one',
  },
  ERR_FDB_STATE_VALUE: {
    cause: 'A value that the codec of the section does not take, or stored bytes that it cannot read',
    remedy: 'Correct the value; put a valid one over bytes that cannot be read, or delete the key',
  },
  ERR_FDB_STATE_REQUEST: {
    cause: 'The `request` id belongs to another change: this one was not made',
    remedy: 'Give each change an id of its own; several changes of one request are one `bulk()`',
  },
  ERR_FDB_STATE_LIMIT: {
    cause: 'A key, a value, a record or the log would be larger than its limit, which the message names',
    remedy: 'Make it smaller, or raise the limit (`stateLimits`) in every process that reads the log',
  },
  ERR_FDB_STATE_BACKPRESSURE: {
    cause: 'More changes wait to be written than the limits `waitingWrites` and `waitingBytes` allow',
    remedy: 'Try again when earlier ones have settled',
  },
  ERR_FDB_STATE_FULL: {
    cause: 'There is no memory for the record; earlier entries stay whole',
    remedy: 'Free memory, or raise the limit of the control group; then try again',
  },
  ERR_FDB_STATE_CLOSED: {
    cause: 'The state log was closed, as its member has left',
    remedy: 'Write before the end; `join()` again',
  },
  ERR_FDB_STATE_MOVED: {
    cause: 'The wanted entry is not in the log any more: it was compacted, or changed',
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
    cause: 'Bytes that are no state log, or of a newer format, or a segment that cannot be where it is',
    remedy: 'Give a file that fd-broker wrote, or use a newer release',
  },
  ERR_FDB_STATE_DAMAGED: {
    cause:
      'A record has been changed since it was written: its checksum, its sequence or its length does not fit. Or a state file is shorter than it was when it was synced',
    remedy:
      'Use another copy; or keep the part before the damage: `fd-broker state repair --file PATH`, which keeps the damaged file aside',
  },
  ERR_FDB_STATE_ORDER: {
    cause: 'A segment was adopted or written out of its order',
    remedy:
      'Adopt the snapshot first, then segments with rising epochs, each when the one before it was sealed',
  },
  ERR_FDB_STATE_BEHIND: {
    cause: 'A segment that was taken as read has unread bytes',
    remedy: 'Adopt it, or catch up first',
  },
  ERR_FDB_STATE_SEAL: {
    cause: 'A memory file cannot be sealed, or was sealed by another process while it was filled',
    remedy: 'Try again; see the cause where the kernel refused',
  },
  ERR_FDB_STATE_IO: {
    cause: 'Appending to the log failed, and not for want of memory',
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
    cause:
      'The state file cannot be read or written, or cannot be trusted: it is a link, belongs to another user or service, or was replaced',
    remedy:
      'As the message says. A durable change that ends so with `details.made` is made, in memory, and comes to the disk when that can be written',
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
    cause: 'The values of a secret section were asked for, or were left out when the file was written',
    remedy: 'Give `--secrets` to show or export them',
  },
  ERR_FDB_STATE_DIGEST: {
    cause: 'The entries do not add up to the digest that was written with them',
    remedy: 'Take another copy; give `--edited` when it was changed on purpose',
  },
  ERR_FDB_STATE_IMPORT: {
    cause: 'An import cannot be read, or says too little of its sections: nothing was imported',
    remedy: 'Give the output of `state export`, with its lines under "sections"',
  },
  ERR_FDB_STATE_DIFFERENT: {
    cause: 'The two states that were compared differ (`state diff`, exit code 1)',
    remedy: 'None: it is the answer',
  },
}
