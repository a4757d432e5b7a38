import { stat } from 'node:fs/promises'
import { Worker } from 'node:worker_threads'
import { FdbError } from '../../index.js'
import type { ProxyConfig } from './config.js'
import { readConfig } from './load.js'
import type { ReadAside } from './worker.js'

/** A larger file would stop the event loop for more than a few milliseconds. */
const LARGE_BYTES = 16 * 1024

/** As {@link readConfig}, without stalling the event loop: a large file is read in a worker thread. */
export async function readConfigAside(file: string): Promise<ProxyConfig> {
  const size = await stat(file).then(
    facts => facts.size,
    () => 0,
  )
  if (size <= LARGE_BYTES) return await readConfig(file)
  const worker = new Worker(new URL('worker.js', import.meta.url), { workerData: file })
  try {
    const answer = await new Promise<ReadAside<ProxyConfig>>((resolve, reject) => {
      worker.once('message', resolve)
      worker.once('error', reject)
      worker.once('exit', code => reject(new Error(`the worker ended with code ${code}`)))
    })
    if (answer.ok) return answer.value
    throw new FdbError(answer.code as `ERR_FDB_${string}`, answer.message, { details: answer.details })
  } finally {
    await worker.terminate()
  }
}
