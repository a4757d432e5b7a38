import type * as files from 'node:fs/promises'

/** `node:fs/promises`, loaded when it is asked for: a process that has no state file starts sooner without. */
export function nodeFiles(): typeof files {
  return process.getBuiltinModule('node:fs/promises')
}
