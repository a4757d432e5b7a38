import { setImmediate as turn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { PhaseGate } from '../../src/daemon/service/service-operations.js'
import type { HolderPhase } from '../../src/handoff/phases.js'

function open(phase: HolderPhase) {
  const now = { phase }
  return { now, verdict: new PhaseGate(() => now.phase) }
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
    'is over at once where that is known: %s',
    async phase => {
      expect(await isSettled(open(phase).verdict.within(60_000))).toBe(true)
    },
  )

  it.each(['committing', 'returning', 'rebuilding'] as const)(
    'lasts until it is decided: %s',
    async phase => {
      const { now, verdict } = open(phase)
      const waiting = verdict.within(60_000)
      verdict.phaseChanged()
      expect(await isSettled(waiting)).toBe(false)
      now.phase = 'idle'
      verdict.phaseChanged()
      expect(await isSettled(waiting)).toBe(true)
    },
  )

  it('has a limit, and ends with the service', async () => {
    const { verdict } = open('committing')
    await verdict.within(20)
    const waiting = verdict.within(60_000)
    verdict.end()
    expect(await isSettled(waiting)).toBe(true)
  })

  it('is given up with its operator', async () => {
    const { verdict } = open('committing')
    const left = new AbortController()
    const waiting = verdict.within(60_000, left.signal)
    left.abort(new Error('left'))
    await expect(waiting).rejects.toThrow('left')
    await expect(verdict.within(60_000, left.signal)).rejects.toThrow('left')
  })

  it('is not for more than a few', async () => {
    const { verdict } = open('committing')
    const waiting = Array.from({ length: 64 }, () => verdict.within(60_000))
    expect(await isSettled(verdict.within(60_000))).toBe(true)
    expect(await isSettled(waiting[0]!)).toBe(false)
    verdict.end()
    await Promise.all(waiting)
  })
})
