import { expect, it } from 'vitest'
import { STOP, stopBody } from '../../../src/operator/service-commands.js'
import { Commands, serveServiceCommands } from '../../holder-support/service-commands.js'

it('an order to end the service refuses a next version before it is answered', async () => {
  const told: string[] = []
  const commands = new Commands()
  serveServiceCommands({
    commands,
    origin: { generation: 1 },
    events: { note() {}, read: () => expect.unreachable() },
    reload: () => expect.unreachable(),
    rollBack: () => expect.unreachable(),
    stop: () => {
      told.push('refused')
      return async () => void told.push('ends')
    },
  })
  const context = { signal: new AbortController().signal } as Parameters<Commands['run']>[2]
  const body = Buffer.from(stopBody({ timeoutMs: null, drop: false }))
  await commands.run(STOP, body, context, 'frozen').then(() => told.push('answered'))
  await new Promise(resolve => setImmediate(resolve))
  expect(told).toEqual(['refused', 'answered', 'ends'])
})
