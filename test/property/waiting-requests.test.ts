import { afterEach, expect, it, vi } from 'vitest'
import { ARRIVE_MS, WaitingRequests } from '../../src/socket-io/waiting-requests.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

afterEach(() => void vi.useRealTimers())

const SIDS = ['a', 'b'] as const
/** A poll gets an empty answer after this time, at the latest. */
const POLL_MS = 150

type Ask = 'poll' | 'send' | 'upgrade'

type Step =
  | { readonly what: Ask; readonly sid: string }
  | { readonly what: 'arrives' | 'is given up'; readonly sid: string }
  | { readonly what: 'goes'; readonly of: number }
  | { readonly what: 'time'; readonly ms: number }

const sid = fc.constantFrom(...SIDS)
const STEP: fc.Arbitrary<Step> = fc.oneof(
  { arbitrary: fc.record({ what: fc.constantFrom('poll', 'poll', 'send', 'upgrade'), sid }), weight: 4 },
  { arbitrary: fc.record({ what: fc.constantFrom('arrives', 'is given up'), sid }), weight: 2 },
  { arbitrary: fc.record({ what: fc.constant('goes' as const), of: fc.nat(5) }), weight: 1 },
  {
    arbitrary: fc.record({
      what: fc.constant('time' as const),
      ms: fc.oneof(fc.nat(POLL_MS), fc.nat(2 * ARRIVE_MS)),
    }),
    weight: 3,
  },
)

interface Asked {
  readonly sid: string
  readonly what: Ask
  readonly at: number
  /** The client has gone before the answer. */
  isGone: boolean
  readonly socket: { destroyed: boolean }
  readonly answers: readonly string[]
}

/** A request, and the answers that it has got. */
function requestOf(what: Ask, sid: string, answers: string[]) {
  const socket = { destroyed: false }
  const res = { writeHead: () => {}, end: () => void answers.push('nothing') }
  const method = what === 'send' ? 'POST' : 'GET'
  return { socket, request: { _query: { sid, EIO: '4' }, method, headers: {}, socket, res } as never }
}

it('each request that waits for its session is answered once: a poll soon, all when the session comes, or does not', async () => {
  const property = fc.asyncProperty(fc.array(STEP, { minLength: 3, maxLength: 20 }), async steps => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    const waiting = new WaitingRequests()
    const all: Asked[] = []
    /** When each session was asked for first since it came last; long ago if it was given up. */
    const since = new Map<string, number>()
    const settle = () => new Promise(setImmediate)
    for (const step of steps) {
      const before = new Set(all.filter(({ answers }) => answers.length > 0))
      if (step.what === 'time') await vi.advanceTimersByTimeAsync(step.ms)
      else if (step.what === 'arrives') waiting.arrived(step.sid)
      else if (step.what === 'is given up') waiting.giveUp(step.sid)
      else if (step.what === 'goes') {
        const one = all[step.of]
        if (one !== undefined && one.answers.length === 0) {
          one.isGone = true
          one.socket.destroyed = true
        }
      } else {
        if (!since.has(step.sid)) since.set(step.sid, performance.now())
        const answers: string[] = []
        const { request, socket } = requestOf(step.what, step.sid, answers)
        const { what, sid } = step
        all.push({ what, sid, at: performance.now(), isGone: false, socket, answers })
        waiting.add(
          request,
          step.what === 'upgrade',
          () => void answers.push('asked'),
          () => {},
        )
      }
      await settle()
      const now = performance.now()
      for (const { sid, what, at, isGone, answers } of all) {
        expect(answers.length).toBeLessThanOrEqual(1)
        if (isGone) expect(answers).not.toContain('asked')
        const isDecided = (step.what === 'arrives' || step.what === 'is given up') && step.sid === sid
        const isDue = isDecided || now - at > (what === 'poll' ? POLL_MS : ARRIVE_MS)
        if (!isGone && isDue) expect([what, answers.length]).toEqual([what, 1])
      }
      if (step.what === 'is given up') since.set(step.sid, Number.NEGATIVE_INFINITY)
      // A session that has come, and left again, is waited for as the first time.
      for (const one of all)
        if (
          !before.has(one) &&
          one.answers.includes('asked') &&
          !(step.what === 'arrives' && step.sid === one.sid)
        )
          expect(now - since.get(one.sid)!).toBeGreaterThanOrEqual(ARRIVE_MS)
      if (step.what === 'arrives') since.delete(step.sid)
      // A request that is answered keeps no timer.
      const open = all.filter(({ isGone, answers }) => !isGone && answers.length === 0)
      const gone = all.filter(({ isGone }) => isGone)
      expect(vi.getTimerCount()).toBeGreaterThanOrEqual(open.length)
      expect(vi.getTimerCount()).toBeLessThanOrEqual(open.length + gone.length)
    }
    await vi.advanceTimersByTimeAsync(ARRIVE_MS + 1)
    await settle()
    expect(vi.getTimerCount()).toBe(0)
    expect(all.filter(({ isGone, answers }) => !isGone && answers.length !== 1)).toEqual([])
    vi.useRealTimers()
  })
  const again: Step[] = [
    { what: 'send', sid: 'a' },
    { what: 'arrives', sid: 'a' },
    { what: 'time', ms: 2 * ARRIVE_MS },
    { what: 'send', sid: 'a' },
  ]
  await fc.assert(property, { numRuns: perLane(50, 2_000), examples: [[again]] })
})
