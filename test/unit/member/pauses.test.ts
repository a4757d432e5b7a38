import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { Pauses } from '../../../src/member/hosting/pauses.js'
import { Leadership } from '../../../src/member/lifecycle/leadership.js'
import { untyped } from '../../fixtures/untyped.js'
import { until } from '../../processes/until.js'

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
  onTestFinished(() => pauses.close())
  return { facts, leadership, pauses, works: () => isWorking }
}

describe('the once-only work of a process that has paused', () => {
  it('goes on while its segment is not sealed', () => {
    const { pauses, works } = serving()
    pauses.hear()
    expect(works()).toBe(true)
  })

  it('stops at once if its segment is sealed, although its holder has said nothing, each time', async () => {
    const { facts, leadership, pauses, works } = serving()
    for (let time = 1; time <= 3; time++) {
      facts.sealed = true
      pauses.hear()
      expect([time, works()]).toEqual([time, false])
      facts.sealed = false
      leadership.acquire()
      await until(`it works again, time ${time}`, works)
    }
  })

  it('stops after a long turn of the event loop, before its timers run', async () => {
    const { facts, works } = serving()
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
    member.facts.sealed = true
    member.pauses.hear()
    expect([read.mock.calls.length, member.works()]).toEqual([1, true])
  })
})
