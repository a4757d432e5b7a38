// Reads a configuration in a worker thread; see readConfigAside() in load.ts.
import { parentPort, workerData } from 'node:worker_threads'
import { FdbError } from '../../index.js'
import { readConfig, type WorkerMessage } from './load.js'

/** The main thread deserializes this many routes in well under a millisecond. */
const ROUTES_PER_MESSAGE = 200

function post(message: WorkerMessage): void {
  parentPort?.postMessage(message)
}

try {
  const { routes, ...config } = await readConfig(String(workerData))
  let sent = 0
  parentPort?.on('message', () => {
    post({ type: 'routes', routes: routes.slice(sent, sent + ROUTES_PER_MESSAGE) })
    sent += ROUTES_PER_MESSAGE
  })
  post({ type: 'config', config: { ...config, routes: [] }, routes: routes.length })
} catch (error) {
  if (!FdbError.is(error)) throw error
  const { code, message, details } = error
  post({ type: 'error', code, message, details })
}
