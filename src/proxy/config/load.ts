import { checkMade, documentOf, parseDocument, readDocument } from '../../config/read.js'
import type { ProxyConfig } from './config.js'
import type { ProxyDocument } from './proxy-document.js'
import { checkConfig } from './schema.js'

export type { ConfigProblem } from '../../config/read.js'

/** Reads and checks a configuration file (YAML or JSON), in one go. Rejects with ERR_FDB_CONFIG. */
export async function readConfig(file: string): Promise<ProxyConfig> {
  return readDocument(file, checkConfig)
}

/** As {@link readConfig}, of a file's contents. Throws. */
export function configOf(bytes: Buffer, file: string): ProxyConfig {
  return documentOf(bytes, file, checkConfig)
}

/**
 * Checks a configuration. Throws ERR_FDB_CONFIG, whose message has a line for each problem (at most 20),
 * `FILE:LINE:COLUMN: KEY: what is wrong`, and whose `details.problems` has them as {@link ConfigProblem}.
 */
export function parseConfig(text: string, file: string): ProxyConfig {
  return parseDocument(text, file, checkConfig)
}

/**
 * Checks a configuration that a program has made; certificates are read from their files. Throws ERR_FDB_CONFIG, whose message has a
 * line for each problem (at most 20), `KEY: what is wrong`.
 */
export function configFrom(document: ProxyDocument): ProxyConfig {
  return checkMade(document, checkConfig)
}
