// Reads a configuration in a worker thread; see read-aside.ts.
import { parentPort, workerData } from 'node:worker_threads'
import { FdbError } from '../../index.js'
import { readConfig } from './load.js'

/** An error as it crosses between threads. */
export type ReadAside<T> =
  | { ok: true; value: T }
  | { ok: false; code: string; message: string; details: Record<string, unknown> }

async function read(): Promise<ReadAside<unknown>> {
  try {
    return { ok: true, value: await readConfig(String(workerData)) }
  } catch (error) {
    if (!FdbError.is(error)) throw error
    const { code, message, details } = error
    return { ok: false, code, message, details }
  }
}

parentPort?.postMessage(await read())
