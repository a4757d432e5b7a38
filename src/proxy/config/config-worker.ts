// Reads a configuration in a worker thread; see read-aside.ts.
import { parentPort, workerData } from 'node:worker_threads'
import { FdbError, type FdbErrorCode } from '../../index.js'
import type { RouteRule } from '../routes/rule.js'
import type { ProxyConfig } from './config.js'
import { readConfig } from './load.js'

/** The main thread deserializes this many routes in well under a millisecond. */
const ROUTES_PER_MESSAGE = 200

/** The worker first sends the configuration without its routes, or an error. Then the worker sends some routes for each message that it receives. */
export type WorkerMessage =
  | { type: 'config'; config: ProxyConfig; routes: number }
  | { type: 'routes'; routes: RouteRule[] }
  | { type: 'error'; code: FdbErrorCode; message: string; details: Record<string, unknown> }

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
