import { expect, it } from 'vitest'
import { OperatorClient } from '../../../src/operator/client.js'
import type { Operations } from '../../../src/operator/requests.js'
import { operatedService } from '../../processes/asked-service.js'
import { OwnTimers } from '../../processes/own-timers.js'
import { until } from '../../processes/until.js'

const LIMIT = { timeout: 60_000 }
const SOON = { timeout: 30 }

/** The options of a call that is given up when it is under way. */
function abortedSoon(): { signal: AbortSignal } {
  const abort = new AbortController()
  setImmediate(() => abort.abort(new Error('given up')))
  return { ...LIMIT, signal: abort.signal }
}
const never = () => new Promise<never>(() => {})
const fails = (call: Promise<unknown>) => expect(call).rejects.toThrow()

type Service = Pick<Operations, 'command' | 'status' | 'upgrade'>

/** Each call of an operator, and how it ends. */
const CALLS: Readonly<Record<string, (client: OperatorClient, service: Service) => Promise<unknown>>> = {
  'a status': client => client.status(LIMIT),
  'a status that comes too late': async (client, service) => {
    service.status = never
    await fails(client.status(SOON))
  },
  'a status that is given up': async (client, service) => {
    service.status = never
    await fails(client.status(abortedSoon()))
  },
  'a command': client => client.command('greet', '', LIMIT),
  'a command that comes too late': async (client, service) => {
    service.command = never
    await fails(client.command('greet', '', SOON))
  },
  'a command that is given up': async (client, service) => {
    service.command = never
    await fails(client.command('greet', '', abortedSoon()))
  },
  'an upgrade': client => client.upgrade(LIMIT),
  'an upgrade that fails': async (client, service) => {
    service.upgrade = () => Promise.reject(new Error('no'))
    await fails(client.upgrade(LIMIT))
  },
  'an upgrade that is cancelled': async (client, service) => {
    service.upgrade = (_order, _progress, cancel) =>
      new Promise((_, reject) => cancel.addEventListener('abort', () => reject(cancel.reason)))
    await fails(client.upgrade(abortedSoon()))
  },
  'an upgrade that cannot be cancelled any more': async (client, service) => {
    service.upgrade = (_order, _progress, cancel) =>
      new Promise(resolve => cancel.addEventListener('abort', () => resolve({ pid: 2, generation: 2 })))
    await client.upgrade(abortedSoon())
  },
  'an upgrade whose connection ends while it is cancelled': async (client, service) => {
    service.upgrade = (_order, _progress, cancel) =>
      new Promise(() => cancel.addEventListener('abort', () => client.close()))
    await fails(client.upgrade(abortedSoon()))
  },
  'the descriptors of a process that holds none': client => fails(client.descriptors.list(LIMIT)),
}

it.each(Object.entries(CALLS))('%s leaves no timer, which would keep a tool alive', async (_, call) => {
  const service: Service = {
    status: async () => ({ pid: process.pid }),
    command: async () => Buffer.from('hello'),
    upgrade: async () => ({ pid: 2, generation: 2 }),
  }
  const control = await operatedService({
    status: () => service.status(),
    command: (order, context) => service.command(order, context),
    upgrade: (...order) => service.upgrade(...order),
  })
  using client = await OperatorClient.connect(control)
  await client.status()
  using timers = new OwnTimers()
  await call(client, service)
  await until(
    'no timer is left',
    () => timers.places.length === 0,
    2_000,
    () => timers.places,
  )
})
