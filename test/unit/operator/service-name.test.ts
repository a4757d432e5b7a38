import { expect, it } from 'vitest'
import type { Operations } from '../../../src/operator/requests.js'
import { operationsOnly } from '../../../src/operator/service-name.js'

const NEVER = new AbortController().signal

it('one service behind a control socket does nothing for who asks for another', async () => {
  const done: string[] = []
  const operations: Operations = {
    status: () => ({}),
    upgrade: async () => {
      done.push('upgrade')
      return { pid: 1, generation: 2 }
    },
    command: async ({ name }) => {
      done.push(name)
      return new Uint8Array()
    },
  }
  const only = operationsOnly({ service: 'shop', control: '/run/upgrade.sock' }, operations)
  const upgrade = (service: string) =>
    only.upgrade({ argv: [], timeoutMs: 0, killStuck: false, without: [], service }, () => {}, NEVER)
  const command = (service: string) =>
    only.command({ name: 'stop', body: Buffer.alloc(0), service }, { signal: NEVER })
  for (const ask of [upgrade, command])
    await expect(ask('edge')).rejects.toMatchObject({
      code: 'ERR_FDB_SERVICE',
      message: expect.stringMatching(/upgrade\.sock.*"shop".*"edge"/),
    })
  expect(done).toEqual([])
  // The socket's name is what it was found by.
  for (const name of ['', 'shop', 'upgrade']) {
    await upgrade(name)
    await command(name)
  }
  expect(done).toEqual(['upgrade', 'stop', 'upgrade', 'stop', 'upgrade', 'stop'])
})
