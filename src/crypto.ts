import type * as crypto from 'node:crypto'

/** `node:crypto`, loaded when it is asked for: most processes start sooner without. */
export function nodeCrypto(): typeof crypto {
  return process.getBuiltinModule('node:crypto')
}
