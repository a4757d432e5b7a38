import { createRequire } from 'node:module'

const load = createRequire(import.meta.url)

/** The package `msgpackr`, loaded when it is asked for: most processes do not, and it costs more than a MiB. */
export function msgpackr(): typeof import('msgpackr') {
  return load('#msgpackr') as typeof import('msgpackr')
}
