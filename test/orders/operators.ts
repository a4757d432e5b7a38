import { FdbError } from '../../src/errors.js'
import { OperatorClient, type UpgradeAsk } from '../../src/operator/client.js'
import {
  RELOAD,
  REPLACE_WORKERS,
  ROLLBACK,
  SET_WORKERS,
  STOP,
  stopBody,
} from '../../src/operator/service-commands.js'
import type { StatusReport } from '../../src/operator/status-report.js'

/** The longest wait for an answer. */
export const ANSWER_MS = 60_000

/** Asks again, as the commands do, if the process serves no more. */
async function operate<T>(control: string, ask: (client: OperatorClient) => Promise<T>): Promise<T> {
  for (;;) {
    using client = await OperatorClient.connect(control)
    try {
      return await ask(client)
    } catch (error) {
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_FENCED') throw error
    }
  }
}

function command(control: string, name: string, body: string, service: string): Promise<unknown> {
  return operate(control, client => client.command(name, body, { service, timeout: ANSWER_MS }))
}

/** `timeoutMs`: null, as configured. */
export function stop(control: string, timeoutMs: number | null = null, service = ''): Promise<unknown> {
  return command(control, STOP, stopBody({ timeoutMs, drop: false }), service)
}

export function rollback(control: string, service = ''): Promise<unknown> {
  return command(control, ROLLBACK, '', service)
}

export function reload(control: string, service = ''): Promise<unknown> {
  return command(control, RELOAD, '', service)
}

export function replaceWorkers(control: string): Promise<unknown> {
  return command(control, REPLACE_WORKERS, '', '')
}

export function setWorkers(control: string, count: number): Promise<unknown> {
  return command(control, SET_WORKERS, `${count}`, '')
}

export function upgrade(control: string, ask: UpgradeAsk = {}): Promise<unknown> {
  return operate(control, client => client.upgrade({ timeout: ANSWER_MS, ...ask }))
}

export function askStatus(control: string): Promise<unknown> {
  return operate(control, client => client.status({ timeout: ANSWER_MS }))
}

/** Returns null if no process answers. */
export async function status(control: string): Promise<Partial<StatusReport> | null> {
  return (await askStatus(control).catch(() => null)) as Partial<StatusReport> | null
}
