import { dirname, join } from 'node:path'
import type { Worker } from 'node:worker_threads'
import { thisFile } from '../../base/this-file.js'
import { FdbError } from '../../index.js'
import type { ProxyConfig } from './config.js'
import type { WorkerMessage } from './config-worker.js'
import { configOf, readConfig } from './load.js'

/** A larger file takes more than a few milliseconds to parse. */
const LARGE_BYTES = 16 * 1024
/** A file with this key is slow too: the check of each certificate takes some milliseconds. */
const CERTIFICATES = 'certificates'

/** As {@link readConfig}, but reads a slow configuration in a worker thread, so that the event loop is not blocked. */
export async function readConfigAside(file: string): Promise<ProxyConfig> {
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
