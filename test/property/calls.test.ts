import { describe, expect, it } from 'vitest'
import { Calls } from '../../src/wire/pending.js'
import fc from '../lanes/generated.js'

type Step =
  | { readonly kind: 'open'; readonly peer: number; readonly aborted: boolean }
  | { readonly kind: 'answer'; readonly peer: number; readonly number: number; readonly refused: boolean }
  | { readonly kind: 'fail'; readonly peer: number | null }
  | { readonly kind: 'abort'; readonly which: number }

const PEERS = fc.integer({ min: 0, max: 2 })
const STEPS: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant('open' as const), peer: PEERS, aborted: fc.boolean() }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('answer' as const),
      peer: PEERS,
      number: fc.integer({ min: 0, max: 12 }),
      refused: fc.boolean(),
    }),
  },
  fc.record({ kind: fc.constant('fail' as const), peer: fc.option(PEERS) }),
  fc.record({ kind: fc.constant('abort' as const), which: fc.nat(12) }),
)

/** How a request ended in the model; null: it waits. */
type End = string | null

describe('requests that wait for their answers', () => {
  it('end once each, as the first of answer, failure and signal says, and only by the peer that was asked', async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(STEPS, { maxLength: 40 }), async steps => {
        const calls = new Calls<number, string>()
        const opened: {
          peer: number
          signal: AbortController
          answer: Promise<string>
          over: number
          end: End
        }[] = []
        const waiting = () => opened.filter(({ end }) => end === null)
        for (const [at, step] of steps.entries()) {
          if (step.kind === 'open') {
            const signal = new AbortController()
            if (step.aborted) signal.abort(new Error(`aborted ${opened.length + 1}`))
            const over = () => {
              call.over++
            }
            const call = { peer: step.peer, signal, answer: Promise.resolve(''), over: 0, end: null as End }
            opened.push(call)
            const { number, pending } = calls.open(step.peer, {}, { signal: signal.signal, onSettled: over })
            expect(number).toBe(opened.length)
            call.answer = pending.answer
            if (step.aborted) call.end = `aborted ${number}`
          } else if (step.kind === 'answer') {
            const { number, peer, refused } = step
            calls.answer(peer, number, () => {
              if (refused) throw new Error(`refused ${at}`)
              return `answer ${at}`
            })
            // A peer that repeats no number answers its oldest.
            const meant = number === 0 ? waiting().find(call => call.peer === peer) : opened[number - 1]
            if (meant?.peer === peer && meant.end === null)
              meant.end = `${refused ? 'refused' : 'answer'} ${at}`
          } else if (step.kind === 'fail') {
            calls.fail(new Error(`failed ${at}`), step.peer ?? undefined)
            for (const call of waiting())
              if (step.peer === null || call.peer === step.peer) call.end = `failed ${at}`
          } else {
            const call = opened[step.which]
            call?.signal.abort(new Error(`aborted ${step.which + 1}`))
            if (call?.end === null) call.end = `aborted ${step.which + 1}`
          }
          expect(calls.size).toBe(waiting().length)
          for (const peer of [0, 1, 2])
            expect(calls.callsTo(peer)).toHaveLength(waiting().filter(call => call.peer === peer).length)
        }
        calls.fail(new Error('the end'))
        for (const { answer, end, over } of opened) {
          expect(await answer.catch((error: Error) => error.message)).toBe(end ?? 'the end')
          expect(over).toBe(1)
        }
        expect(calls.size).toBe(0)
      }),
    )
  })
})
