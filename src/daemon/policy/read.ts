import { type ConfigProblem, parseDocument, readDocument } from '../../config/read.js'
import type { Policy } from './policy.js'
import { checkPolicy } from './schema.js'

export type { ConfigProblem }

/** Reads and checks a daemon's configuration file (YAML or JSON). Throws ERR_FDB_CONFIG, which names file, line, column and key. */
export function readPolicy(file: string): Policy {
  return readDocument(file, checkPolicy)
}

/** As {@link readPolicy}, of a text. */
export function parsePolicy(text: string, file: string): Policy {
  return parseDocument(text, file, checkPolicy)
}
