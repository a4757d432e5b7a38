import { dirname, join } from 'node:path'
import type { Worker } from 'node:worker_threads'
import { thisFile } from '../../base/lazy.js'
import { checkMade, documentOf, parseDocument, readDocument, requireFile } from '../../config/document.js'
import { FdbError, type FdbErrorCode } from '../../index.js'
import type { RouteRule } from '../routes/rule.js'
import { checkConfig, type ProxyConfig, type ProxyDocument } from './schema.js'

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

/** A larger file takes more than a few milliseconds to parse. */
const LARGE_BYTES = 16 * 1024
/** A file with this key is slow too: the check of each certificate takes some milliseconds. */
const CERTIFICATES = 'certificates'

/**
 * As {@link readConfig}, but reads a slow configuration in a worker thread, so that the event loop is not blocked, and only a regular file.
 */
export async function readConfigAside(file: string): Promise<ProxyConfig> {
  requireFile(file)
  const { readFile } = process.getBuiltinModule('node:fs/promises')
  const bytes = await readFile(file).catch(() => null)
  if (bytes === null) return await readConfig(file)
  if (bytes.length <= LARGE_BYTES && !bytes.includes(CERTIFICATES)) return configOf(bytes, file)
  const { Worker } = process.getBuiltinModule('node:worker_threads')
  // The build puts config-worker.js into the same folder as this file.
  const worker = new Worker(join(dirname(thisFile()), 'config-worker.js'), { workerData: file })
  try {
    return await receiveConfig(worker)
  } finally {
    await worker.terminate()
  }
}

/** The worker first sends the configuration without its routes, or an error. Then the worker sends some routes for each message that it receives. */
export type WorkerMessage =
  | { type: 'config'; config: ProxyConfig; routes: number }
  | { type: 'routes'; routes: RouteRule[] }
  | { type: 'error'; code: FdbErrorCode; message: string; details: Record<string, unknown> }

/** Requests the routes in parts, each in another turn of the event loop. */
function receiveConfig(worker: Worker): Promise<ProxyConfig> {
  return new Promise((resolve, reject) => {
    let config: ProxyConfig | undefined
    let expected = 0
    worker.on('error', reject)
    worker.on('exit', code =>
      reject(new Error(`the thread that read the configuration ended with code ${code}`)),
    )
    worker.on('message', (message: WorkerMessage) => {
      if (message.type === 'error') {
        const { code, message: text, details } = message
        reject(new FdbError(code, text, { details }))
        return
      }
      if (message.type === 'config') {
        config = message.config
        expected = message.routes
      } else config?.routes.push(...message.routes)
      if (config === undefined) return
      if (config.routes.length >= expected) resolve(config)
      else setImmediate(() => worker.postMessage('more'))
    })
  })
}
