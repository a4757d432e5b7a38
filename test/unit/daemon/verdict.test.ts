import { setImmediate as turn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import {
  ServiceOperations,
  type ServiceOperationsDeps,
} from '../../../src/daemon/service/service-operations.js'
import type { HolderPhase } from '../../../src/handoff/phases.js'

function open(phase: HolderPhase, commit = 60_000) {
  const now = { phase }
  const service = { times: { commit }, service: {}, holder: { peer: () => undefined, state: now } }
  return { now, operations: new ServiceOperations(service as unknown as ServiceOperationsDeps) }
}

async function isSettled(waiting: Promise<unknown>): Promise<boolean> {
  let settled = false
  const done = () => {
    settled = true
  }
  waiting.then(done, done)
  await turn()
  return settled
}

describe('the wait for who serves', () => {
  it.each(['idle', 'offering', 'quiescing', 'freezing', 'preparing', 'probation'] as const)(
    'ends at once where that is known: %s',
    phase => {
      expect(open(phase).operations.whenDecided(60_000)).toBe(null)
    },
  )

  it.each(['committing', 'returning', 'rebuilding'] as const)(
    'lasts until it is decided: %s',
    async phase => {
      const { now, operations } = open(phase)
      const waiting = operations.whenDecided(60_000)!
      operations.changed()
      expect(await isSettled(waiting)).toBe(false)
      now.phase = 'idle'
      operations.changed()
      expect(await isSettled(waiting)).toBe(true)
    },
  )

  it('has a limit, no longer than a commit may last, and ends with the service', async () => {
    await open('committing').operations.whenDecided(20)
    await open('committing', 20).operations.whenDecided(60_000)
    const { operations } = open('committing')
    const waiting = operations.whenDecided(60_000)!
    operations.close()
    expect(await isSettled(waiting)).toBe(true)
  })

  it('ends with its operator', async () => {
    const { operations } = open('committing')
    const left = new AbortController()
    const command = () =>
      operations.command({ name: 'greet', body: Buffer.alloc(0), service: '' }, { signal: left.signal })
    const waiting = command()
    left.abort(new Error('left'))
    await expect(waiting).rejects.toThrow('left')
    await expect(command()).rejects.toThrow('left')
  })
})
