import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { FdbError } from '../../src/errors.js'
import { json } from '../../src/state/codec.js'
import type { ForwardQueue, WriteSender } from '../../src/state/forward-queue.js'
import type { Answer, ForwardedWrite } from '../../src/state/forwarded-write.js'
import { defineSection } from '../../src/state/schema.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'

const schema = defineSection<number>({ version: 1, codec: json() })
const refusal = new FdbError('ERR_FDB_DEADLINE', 'nobody took it in time', { retryable: true })
const FOLLOWERS = 3

const who = fc.nat({ max: FOLLOWERS })
const follower = fc.nat({ max: FOLLOWERS - 1 })
const operation = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('count' as const), who }) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant('put' as const),
      who,
      key: fc.constantFrom('a', 'b', 'c'),
      value: fc.nat(9),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('replace' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('merge' as const) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('cut' as const), who: follower }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('return' as const), who: follower }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('turn' as const) }) },
)
type Operation = typeof operation extends fc.Arbitrary<infer T> ? T : never

/** One that writes, and others that follow it over ways that break. */
class World {
  writer = new StateLog()
  #epoch = 1
  readonly #followers: Follower[]
  readonly promises: Promise<unknown>[] = []
  counted = 0

  constructor() {
    this.writer.startWriting(Segment.create(1))
    this.#followers = Array.from({ length: FOLLOWERS }, () => new Follower(this))
  }

  async act(operation: Operation): Promise<void> {
    switch (operation.kind) {
      case 'count':
        this.counted++
        this.promises.push(this.#section(operation.who).update('n', (n = 0) => n + 1))
        return
      case 'put':
        this.promises.push(this.#section(operation.who).put(operation.key, operation.value))
        return
      case 'replace':
        await this.#replace()
        return
      case 'merge':
        await this.writer.compact()
        return
      case 'cut':
        this.#followers[operation.who]!.cut()
        return
      case 'return':
        await this.#followers[operation.who]!.connect()
        return
      case 'turn':
        await nextTurn()
    }
  }

  /** Another writes from now on, as after an upgrade or a death: what was on its way to the one before is sent again. */
  async #replace(): Promise<void> {
    const before = this.writer
    // The member's own changes are in the log, or would wait for an answer that no process gives.
    await before.settled()
    const next = new StateLog()
    const segments = before.segments.map(segment => segment.readOnly())
    before.segments.at(-1)!.seal()
    for (const segment of segments) await next.adopt(segment)
    next.startWriting(Segment.create(++this.#epoch))
    this.writer = next
    before.close()
    for (const each of this.#followers) if (each.connected) await each.connect()
  }

  /** All ways lead to the one that writes: everything comes to its end, and all have the same. */
  async settle(): Promise<void> {
    for (const each of this.#followers) await each.connect()
    await Promise.all(this.promises)
    for (const { log } of this.#followers) expect(log.position).toEqual(this.writer.position)
    expect(this.writer.section('counts', schema).get('n') ?? 0).toBe(this.counted)
    for (const each of this.#followers) each.check()
  }

  close(): void {
    for (const { log } of this.#followers) log.close()
    this.writer.close()
  }

  #section(of: number) {
    const log = of === FOLLOWERS ? this.writer : this.#followers[of]!.log
    return log.section('counts', schema)
  }
}

class Follower {
  readonly log = new StateLog()
  connected = false
  readonly #world: World
  readonly #forwarding: ForwardQueue
  /** The changes that its listener was told, added up. */
  readonly #told = new Map<string, number>()
  #way = 0

  constructor(world: World) {
    this.#world = world
    this.#forwarding = this.log.forwardWriting({ timeoutMs: 20_000, refusal })
    const section = this.log.section('counts', schema)
    section.onChange(({ op, key }) => {
      if (op === 'put') this.#told.set(key, section.get(key)!)
      else this.#told.delete(key)
    })
  }

  /** The follower gets the segments that it lacks; all, where those have been merged. */
  async connect(): Promise<void> {
    this.#way++
    const way = this.#way
    const top = Math.max(0, ...this.log.segments.map(({ epoch }) => epoch))
    const lacking = this.#world.writer.segments.filter(({ epoch }) => epoch > top).map(one => one.readOnly())
    if (top > 0 && lacking[0]?.kind === 'snapshot') await this.log.rebuild(lacking)
    else for (const segment of lacking) await this.log.adopt(segment)
    this.log.follow()
    this.connected = true
    const writeSender: WriteSender = { send: (number, write) => void this.#send(way, number, write) }
    this.#forwarding.connect(writeSender)
  }

  cut(): void {
    this.#way++
    this.connected = false
    this.#forwarding.disconnect()
  }

  async #send(way: number, number: number, write: ForwardedWrite): Promise<void> {
    const { writer } = this.#world
    const arriving = writer.incoming()
    for (const part of write.parts) arriving.add(part)
    const answer: Answer = await writer.accept(arriving, write)
    // An answer that comes over a broken way is lost.
    if (way === this.#way) this.#forwarding.onAnswer(number, answer)
    if (way === this.#way && answer.outcome === 'again')
      setImmediate(() => way === this.#way && this.connect())
  }

  check(): void {
    expect(this.#told).toEqual(new Map(this.log.section('counts', schema)))
  }
}

it('whatever breaks, each change of a follower is made once, and all come to the same state', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(operation, { maxLength: 80, size: 'max' }), async operations => {
      const world = new World()
      try {
        for (const each of operations) await world.act(each)
        await world.settle()
      } finally {
        world.close()
      }
    }),
    { numRuns: perLane(15, 60) },
  )
})
