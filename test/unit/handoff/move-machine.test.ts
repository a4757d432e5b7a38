import { describe, expect, it } from 'vitest'
import {
  initialMoveIn,
  initialMoveOut,
  NO_SLICE,
  stepMoveIn,
  stepMoveOut,
} from '../../../src/handoff/move-machine.js'
import fc from '../../lanes/generated.js'

const types = (step: { effects: readonly { type: string }[] }): string[] =>
  step.effects.map(({ type }) => type)

describe('the sender of a slice', () => {
  const sent = stepMoveOut(initialMoveOut(), { type: 'start' }).state

  it('writes moved(k) before it drops, and back(k) before it reads again', () => {
    expect(stepMoveOut(sent, { type: 'ack', slice: 1 }).effects).toEqual([
      { type: 'log', slice: 1, record: 'moved' },
    ])
    expect(types(stepMoveOut(sent, { type: 'logged', slice: 1, record: 'moved', written: true }))).toEqual([
      'drop',
    ])
    expect(stepMoveOut(sent, { type: 'deadline' }).effects).toEqual([
      { type: 'log', slice: 1, record: 'back' },
    ])
    expect(types(stepMoveOut(sent, { type: 'logged', slice: 1, record: 'back', written: true }))).toEqual([
      'takeBack',
    ])
  })

  it('keeps the slice when the receiver has sealed the log, and sends no other', () => {
    const step = stepMoveOut(sent, { type: 'logged', slice: 1, record: 'moved', written: false })
    expect(types(step)).toEqual(['takeBack'])
    expect(types(stepMoveOut(step.state, { type: 'start' }))).toEqual([])
  })

  it('ignores an Ack that comes late', () => {
    const back = stepMoveOut(sent, { type: 'logged', slice: 1, record: 'back', written: true }).state
    const again = stepMoveOut(back, { type: 'start' }).state
    expect(again.pending).toBe(2)
    expect(types(stepMoveOut(again, { type: 'ack', slice: 1 }))).toEqual([])
  })
})

describe('the receiver of a slice in doubt', () => {
  const held = stepMoveIn(initialMoveIn(), { type: 'prepare', slice: 1 }).state

  it('seals the log before it believes it', () => {
    expect(types(stepMoveIn(held, { type: 'doubt', sender: 'alive' }))).toEqual(['consult'])
  })

  it.each([
    ['moved', 'alive', 'adopt'],
    ['moved', 'dead', 'adopt'],
    ['nothing', 'dead', 'adopt'],
    ['nothing', 'alive', 'release'],
    ['back', 'alive', 'release'],
    ['back', 'dead', 'release'],
  ] as const)('with %s in the log of a sender that is %s: %s', (record, sender, effect) => {
    expect(types(stepMoveIn(held, { type: 'log', slice: 1, record, sender }))).toEqual([effect])
  })
})

describe('a connection between a sender and a receiver', () => {
  it('has one reader at the end, whatever is lost', () => {
    const action = fc.constantFrom(
      'start',
      'toReceiver',
      'toSender',
      'loseDown',
      'loseUp',
      'senderWaits',
      'receiverDoubts',
    )
    fc.assert(
      fc.property(fc.array(action, { maxLength: 40 }), actions => {
        const pair = new Pair()
        for (const next of actions) {
          pair[next]()
          expect(pair.readers.size).toBeLessThanOrEqual(1)
        }
        pair.senderWaits()
        pair.receiverDoubts()
        expect(pair.readers.size).toBe(1)
        expect([...pair.holders]).toEqual([...pair.readers])
      }),
      { seed: 20240502, numRuns: 2000 },
    )
  })
})

/** Both machines, two queues and a log that one of them may seal. */
class Pair {
  sender = initialMoveOut()
  receiver = initialMoveIn()
  readonly readers = new Set(['sender'])
  readonly holders = new Set(['sender'])
  readonly #up: number[] = []
  readonly #down: { type: 'prepare' | 'moved'; slice: number }[] = []
  readonly #log = new Map<number, 'moved' | 'back'>()
  #sealed = false

  start(): void {
    if (this.readers.has('sender')) this.#give({ type: 'start' })
  }
  toReceiver(): void {
    const message = this.#down.shift()
    if (message !== undefined) this.#take(message)
  }
  toSender(): void {
    const slice = this.#up.shift()
    if (slice !== undefined) this.#give({ type: 'ack', slice })
  }
  loseDown(): void {
    this.#down.length = 0
  }
  loseUp(): void {
    this.#up.length = 0
  }
  senderWaits(): void {
    if (this.sender.pending !== NO_SLICE) this.#give({ type: 'deadline' })
  }
  receiverDoubts(): void {
    if (this.receiver.held !== NO_SLICE) this.#take({ type: 'doubt', sender: 'alive' })
  }

  #give(event: Parameters<typeof stepMoveOut>[1]): void {
    const step = stepMoveOut(this.sender, event)
    this.sender = step.state
    for (const effect of step.effects) {
      const { slice } = effect
      if (effect.type === 'prepare') {
        this.readers.delete('sender')
        this.#down.push({ type: 'prepare', slice })
      } else if (effect.type === 'log') {
        const written = !this.#sealed
        if (written) this.#log.set(slice, effect.record)
        this.#give({ type: 'logged', slice, record: effect.record, written })
      } else if (effect.type === 'drop') {
        this.holders.delete('sender')
        this.#down.push({ type: 'moved', slice })
      } else this.readers.add('sender')
    }
  }
  #take(event: Parameters<typeof stepMoveIn>[1]): void {
    const step = stepMoveIn(this.receiver, event)
    this.receiver = step.state
    for (const effect of step.effects) {
      const { slice } = effect
      if (effect.type === 'acknowledge') {
        this.holders.add('receiver')
        this.#up.push(slice)
      } else if (effect.type === 'adopt') this.readers.add('receiver')
      else if (effect.type === 'release') this.holders.delete('receiver')
      else {
        this.#sealed = true
        this.#take({ type: 'log', slice, record: this.#log.get(slice) ?? 'nothing', sender: effect.sender })
      }
    }
  }
}
