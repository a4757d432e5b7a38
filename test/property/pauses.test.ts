import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { Pauses } from '../../src/member/hosting/pauses.js'
import { Leadership } from '../../src/member/lifecycle/leadership.js'
import { untyped } from '../fixtures/untyped.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'
import { until } from '../processes/until.js'

/** Once-only work of a member that serves, as far as it knows. `read`: the messages of its holder that it has not read yet. */
function serving(read: () => void = () => {}) {
  const facts = { phase: 'serving', sealed: false }
  const leadership = new Leadership(
    () => {},
    error => expect.unreachable(String(error)),
    SILENT,
  )
  let isWorking = false
  leadership.add(() => {
    isWorking = true
    return () => {
      isWorking = false
    }
  })
  leadership.acquire()
  const machine = {
    get phase() {
      return facts.phase
    },
    get sealed() {
      return facts.sealed
    },
  }
  // A holder that has stopped between the seal and its message: the state machine learns nothing of it.
  const pauses = new Pauses(
    untyped<ConstructorParameters<typeof Pauses>[0]>({
      machine,
      shutdown: { over: false },
      leadership,
      joined: { link: { channel: { readNow: read } } },
      state: { position: null },
      checkSeal: () => {},
    }),
  )
  return { facts, leadership, pauses, works: () => isWorking }
}

describe('the once-only work of a process that has paused', () => {
  it('runs if and only if its segment is not sealed, whatever its holder has said, each time', async () => {
    const property = fc.asyncProperty(fc.array(fc.boolean(), { minLength: 1, maxLength: 8 }), async seals => {
      const { facts, leadership, pauses, works } = serving()
      for (const sealed of seals) {
        facts.sealed = sealed
        pauses.hear()
        expect(works()).toBe(!sealed)
        // The process serves again.
        facts.sealed = false
        leadership.acquire()
        if (!works()) await until('it works again', works)
      }
      pauses.close()
    })
    await fc.assert(property, { numRuns: perLane(20, 1_000) })
  })

  it('stops after a long turn of the event loop, before its timers run', async () => {
    const { facts, pauses, works } = serving()
    onTestFinished(() => pauses.close())
    await new Promise(resolve => setImmediate(resolve))
    const seen: boolean[] = []
    const timer = setInterval(() => seen.push(works()), 1)
    onTestFinished(() => clearInterval(timer))
    facts.sealed = true
    for (const end = performance.now() + 200; performance.now() < end; );
    await until('a timer has run', () => seen.length > 1)
    expect(seen.at(-1)).toBe(false)
  })

  it('follows the messages that have arrived, which are read first', () => {
    const read = vi.fn(() => {
      member.facts.phase = 'standby'
    })
    const member = serving(read)
    onTestFinished(() => member.pauses.close())
    member.facts.sealed = true
    member.pauses.hear()
    expect([read.mock.calls.length, member.works()]).toEqual([1, true])
  })
})
