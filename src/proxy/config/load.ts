import { checkMade, documentOf, parseDocument, readDocument } from '../../config/document.js'
import type { ProxyConfig } from './config.js'
import type { ProxyDocument } from './proxy-document.js'
import { checkConfig } from './schema.js'

export type { ConfigProblem } from '../../config/document.js'

/** Reads and checks a configuration file (YAML or JSON) in one turn of the event loop. Rejects with ERR_FDB_CONFIG. */
export async function readConfig(file: string): Promise<ProxyConfig> {
  return readDocument(file, checkConfig)
}

/** As {@link readConfig}, for the contents of a file. Throws ERR_FDB_CONFIG. */
export function configOf(bytes: Buffer, file: string): ProxyConfig {
  return documentOf(bytes, file, checkConfig)
}

/**
 * Checks the text of a configuration. Throws ERR_FDB_CONFIG: its message has a line `FILE:LINE:COLUMN: KEY: what is wrong` for each problem (at most
 * 20), its `details.problems` has them as {@link ConfigProblem}.
 */
export function parseConfig(text: string, file: string): ProxyConfig {
  return parseDocument(text, file, checkConfig)
}

/** Checks a configuration object, and reads its certificate files. Throws ERR_FDB_CONFIG: its message has a line `KEY: what is wrong` for each problem (at most 20). */
export function configFrom(document: ProxyDocument): ProxyConfig {
  return checkMade(document, checkConfig)
}
