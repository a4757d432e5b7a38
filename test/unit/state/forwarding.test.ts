import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import type { Answer, ForwardedWrite } from '../../../src/state/forwarded-write.js'
import { encodeBody, encodeEnvelope, encodeSchema, PUT } from '../../../src/state/records.js'
import { Link } from '../../../src/wire/link.js'
import { defineSection, json, REMOVE, Segment, StateLog, type StateLogOptions } from '../../fixtures/state.js'
import { untyped } from '../../fixtures/untyped.js'
import { channelPair } from '../../processes/channel-pair.js'
import { until } from '../../processes/until.js'

const counterSchema = defineSection<number>({ version: 1, codec: json() })
const next = (n = 0) => n + 1
const code = (expected: string) => expect.objectContaining({ code: expected })
const refusal = new FdbError('ERR_FDB_FENCED', 'another serves', { retryable: true })

type ForwardQueue = ReturnType<StateLog['forwardWriting']>

/** Takes what is forwarded to a log, and answers when it is told to. */
class Way {
  readonly sent: { number: number; write: ForwardedWrite }[] = []
  readonly answers: (() => void)[] = []
  /** Answers by itself. */
  prompt = true
  readonly #forwarding: ForwardQueue
  readonly #writer: StateLog

  constructor(forwarding: ForwardQueue, writer: StateLog) {
    this.#forwarding = forwarding
    this.#writer = writer
    forwarding.connect(this)
  }

  send(number: number, write: ForwardedWrite): void {
    this.sent.push({ number, write })
    void this.#make(number, write)
  }

  async #make(number: number, write: ForwardedWrite): Promise<void> {
    const answer = await make(this.#writer, write)
    const tell = () => this.#forwarding.onAnswer(number, answer)
    this.answers.push(tell)
    if (this.prompt) tell()
  }
}

async function make(writer: StateLog, write: ForwardedWrite): Promise<Answer> {
  const arriving = writer.incoming()
  try {
    for (const part of write.parts) arriving.add(part)
  } catch (error) {
    return { outcome: 'refused', error: error as FdbError }
  }
  return await writer.accept(arriving, write)
}

/** A process that was replaced in good order, and the one that writes now. */
async function replaced(
  options: {
    waiting?: (log: StateLog) => unknown
    timeoutMs?: number
    author?: StateLogOptions
    writer?: StateLogOptions
    /** The author does not get the writer's segment. */
    blind?: boolean
  } = {},
) {
  const author = new StateLog(options.author)
  author.startWriting(Segment.create(1))
  await author.section('counts', counterSchema).put('n', 1)
  author.pauseWriting()
  options.waiting?.(author)
  const writer = new StateLog(options.writer)
  await writer.adopt(author.segments[0]!.readOnly())
  author.segments[0]!.seal()
  await writer.catchUp()
  const segment = Segment.create(2)
  writer.startWriting(segment)
  const forwarding = author.forwardWriting({ timeoutMs: options.timeoutMs ?? 60_000, refusal })
  if (!options.blind) await author.adopt(segment.readOnly())
  author.follow()
  onTestFinished(() => {
    author.close()
    writer.close()
  })
  const counts = {
    here: author.section('counts', counterSchema),
    there: writer.section('counts', counterSchema),
  }
  return { author, writer, forwarding, counts, segment }
}

describe('changes of a process that was replaced', () => {
  it('reach the one that writes, in order, and read here once they are acknowledged', async () => {
    const { forwarding, counts, writer } = await replaced()
    new Way(forwarding, writer)
    await counts.here.put('a', 1)
    expect([counts.here.get('a'), counts.there.get('a')]).toEqual([1, 1])
    const all = Array.from({ length: 2000 }, (_, i) => counts.here.put('a', i))
    await Promise.all(all)
    expect(counts.here.get('a')).toBe(1999)
    expect(await counts.here.delete('a')).toBe(true)
    expect(await counts.here.delete('a')).toBe(false)
    expect(writer.sequence).toBe(1 + 1 + 2000 + 2)
  })

  it('reach no other process if only this process may make them: they waited for the handoff, or come after it', async () => {
    const refused: Promise<unknown>[] = []
    const ownBulk = (log: StateLog, count: number) => {
      const changes = Array.from({ length: count }, (_, i) => ({ key: `${count}-${i}`, value: i }))
      const made = log.section('counts', counterSchema).ownBulk_(changes)
      refused.push(expect(made).rejects.toThrow(code('ERR_FDB_FENCED')))
    }
    const { author, forwarding, counts } = await replaced({
      waiting: log => {
        ownBulk(log, 1)
        ownBulk(log, 20_000)
      },
    })
    const way = new Way(forwarding, author)
    ownBulk(author, 2)
    await Promise.all(refused)
    expect([way.sent.length, counts.there.size]).toEqual([0, 1])
  })

  it('come first if they waited for the handoff', async () => {
    const waiting: Promise<unknown>[] = []
    const { forwarding, counts, writer } = await replaced({
      waiting: log => waiting.push(log.section('counts', counterSchema).put('a', 1)),
    })
    const later = counts.here.put('a', 2)
    await nextTurn()
    expect(counts.there.has('a')).toBe(false)
    new Way(forwarding, writer)
    await Promise.all([...waiting, later])
    expect([counts.here.get('a'), writer.sequence]).toEqual([2, 3])
  })

  it('wait their time from the handoff on, however long they have waited for it', async () => {
    const now = performance.now.bind(performance)
    let later = 0
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now() + later)
    onTestFinished(() => clock.mockRestore())
    const waiting: Promise<unknown>[] = []
    const { forwarding, counts, writer } = await replaced({
      waiting: log => {
        waiting.push(log.section('counts', counterSchema).put('a', 1))
        later = 600_000
      },
    })
    for (let turn = 0; turn < 10; turn++) await nextTurn()
    new Way(forwarding, writer)
    await Promise.all(waiting)
    expect(counts.there.get('a')).toBe(1)
  })

  it('go up to 256 KiB at a time, and all come', async () => {
    const { author, forwarding, writer } = await replaced()
    const way = new Way(forwarding, writer)
    way.prompt = false
    const raw = author.section('raw')
    const all = Array.from({ length: 10 }, (_, i) => raw.put(`k${i}`, Buffer.alloc(100 * 1024)))
    await until('three are made', () => way.answers.length >= 3)
    expect(way.sent).toHaveLength(3)
    way.prompt = true
    for (const tell of way.answers) tell()
    await Promise.all(all)
    expect(writer.section('raw').size).toBe(10)
  })

  it('succeed when the next disk has them, if they were made here, and not on the disk when the right went on', async () => {
    let fail = (_: unknown): void => {}
    let fenced = false
    const disk = {
      checkServing: () => {
        if (fenced) throw refusal
      },
      flush: () => new Promise<void>((_, reject) => (fail = reject)),
    }
    const asked: Promise<unknown>[] = []
    const { forwarding, counts, writer } = await replaced({
      waiting: log => {
        log.resumeWriting()
        log.disk = disk
        asked.push(log.section('counts', counterSchema).put('made', 1, { durable: true }))
        log.pauseWriting()
        fenced = true
        // Between the seal and the word of it a change waits, a durable one as any other.
        asked.push(log.section('counts', counterSchema).put('waits', 2, { durable: true }))
      },
    })
    const flushed: number[] = []
    writer.disk = { checkServing: () => {}, flush: async () => void flushed.push(writer.sequence) }
    const way = new Way(forwarding, writer)
    await nextTurn()
    fail(refusal)
    await Promise.all(asked)
    expect(flushed).toEqual([3, 3])
    expect(way.sent.at(-1)!.write).toMatchObject({ parts: [], reads: [], durable: true })
    expect([counts.there.get('made'), counts.there.get('waits')]).toEqual([1, 2])
  })

  it('count each once as updates, beside updates there', async () => {
    const { forwarding, counts, writer } = await replaced()
    const way = new Way(forwarding, writer)
    const here = Array.from({ length: 200 }, () => counts.here.update('n', next))
    const there: Promise<unknown>[] = []
    for (let i = 0; i < 100; i++) {
      there.push(counts.there.update('n', next))
      await nextTurn()
    }
    const told = (await Promise.all(here)) as number[]
    await Promise.all(there)
    expect([counts.there.get('n'), counts.here.get('n')]).toEqual([301, 301])
    expect(new Set(told).size).toBe(200)
    expect(way.sent.length).toBeGreaterThan(200)
  })

  it('go together as updates of different entries, and one after the other of the same', async () => {
    const { forwarding, counts, writer } = await replaced()
    const way = new Way(forwarding, writer)
    way.prompt = false
    const keys = Array.from({ length: 32 }, (_, i) => `k${i}`)
    const updates = keys.map(key => counts.here.update(key, next))
    const again = counts.here.update('k0', next)
    const behind = counts.here.put('k1', 10)
    await until('all are sent', () => way.sent.length === 32)
    await until('all are made', () => way.answers.length === 32)
    // Another of the same entry, and what is no update, come behind them.
    expect(way.sent.length).toBe(32)
    way.prompt = true
    for (const tell of way.answers) tell()
    expect(await Promise.all(updates)).toEqual(keys.map(() => 1))
    expect([await again, await behind, counts.here.get('k0'), counts.here.get('k1')]).toEqual([
      2,
      undefined,
      2,
      10,
    ])
    expect(way.sent.length).toBe(34)
  })

  it('start again as updates whose entry has changed, each once, while those behind them are made', async () => {
    const { forwarding, counts, writer } = await replaced()
    const way = new Way(forwarding, writer)
    const send = way.send.bind(way)
    way.send = (number, write) => {
      // The entry changes there before the first write comes.
      if (way.sent.length === 0) void counts.there.put('a', 10)
      send(number, write)
    }
    const order: string[] = []
    const count = (key: string) => counts.here.update(key, next).then(n => order.push(`${key} ${n}`))
    await Promise.all([count('a'), count('b'), count('a'), count('c')])
    expect(order).toEqual(['a 11', 'b 1', 'a 12', 'c 1'])
    expect(writer.sequence).toBe(1 + 1 + 4)
  })

  it('follow the state there: leaving as it is, deleting, several sections', async () => {
    const { forwarding, counts, writer, author } = await replaced()
    const way = new Way(forwarding, writer)
    await counts.there.put('n', 5)
    const below = (most: number) => counts.here.update('n', (n = 0) => (n < most ? n + 1 : undefined))
    expect([await below(5), await below(6), writer.sequence]).toEqual([5, 6, 3])
    expect([await counts.here.update('n', () => REMOVE), counts.there.has('n')]).toEqual([undefined, false])
    const other = author.section('other', counterSchema)
    const both = await author.update(state => {
      state.put(counts.here, 'n', 1)
      state.put(other, 'm', (state.get(other, 'm') ?? 0) + 2)
      return 'both'
    })
    expect([both, counts.there.get('n'), writer.section('other', counterSchema).get('m')]).toEqual([
      'both',
      1,
      2,
    ])
    await expect(
      counts.here.update('n', () => {
        throw new Error('no')
      }),
    ).rejects.toThrow('no')
    // Nothing was changed and nothing read: no process need be asked.
    const asked = way.sent.length
    expect([await author.update(() => 'nothing'), way.sent.length]).toEqual(['nothing', asked])
  })

  it('tell of an entry that they deleted although the answer was lost, and they were sent again', async () => {
    const { forwarding, counts, writer } = await replaced({ blind: true })
    const lost = new Way(forwarding, writer)
    lost.prompt = false
    const deleted = counts.here.delete('n')
    await until('it is made', () => lost.answers.length === 1)
    new Way(forwarding, writer)
    expect(await deleted).toBe(true)
  })

  it('count once when the answer is lost and they are sent again', async () => {
    const { forwarding, counts, writer } = await replaced()
    const first = new Way(forwarding, writer)
    first.prompt = false
    const made = [counts.here.put('a', 1), counts.here.update('n', next), counts.here.put('a', 2)]
    // Until it is in view here it would be sent again, and the second would wait for its answer.
    await until('the first is read here', () => counts.here.get('a') === 1)
    forwarding.disconnect()
    const second = new Way(forwarding, writer)
    second.prompt = false
    await until('the second is there', () => counts.there.get('n') === 2)
    forwarding.disconnect()
    new Way(forwarding, writer)
    await Promise.all(made)
    expect([counts.here.get('n'), counts.here.get('a'), writer.sequence]).toEqual([2, 2, 4])
    // Late answers are of no use any more, and do no harm.
    for (const tell of [...first.answers, ...second.answers]) tell()
    await counts.here.put('a', 3)
    expect(counts.there.get('a')).toBe(3)
  })

  it('stay here once they are read, also where the queue goes on in the next turn', async () => {
    const { forwarding, counts, writer } = await replaced({ author: { sliceMs: 1e-6 } })
    const first = new Way(forwarding, writer)
    first.prompt = false
    const put = counts.here.put('a', 1)
    // In the turn in which it was sent.
    for (let step = 0; step < 100 && counts.here.get('a') !== 1; step++) await null
    expect(counts.here.get('a')).toBe(1)
    forwarding.disconnect()
    const second = new Way(forwarding, writer)
    second.prompt = false
    await put
    expect(second.sent).toEqual([])
  })

  it('count as made, as they are in view, when the writer died before it answered', async () => {
    const { forwarding, counts, writer } = await replaced()
    const way = new Way(forwarding, writer)
    way.prompt = false
    const put = counts.here.put('a', 1)
    await until('it is there', () => counts.there.get('a') === 1)
    forwarding.disconnect()
    await put
    expect(counts.here.get('a')).toBe(1)
  })

  it('count once where this process writes again: those that were made there are not made here', async () => {
    const { author, forwarding, counts, writer } = await replaced()
    const way = new Way(forwarding, writer)
    way.prompt = false
    const made = counts.here.update('n', next)
    await until('it is there', () => counts.there.get('n') === 2)
    const waiting = [counts.here.update('n', next), counts.here.put('a', 1)]
    forwarding.disconnect()
    writer.segments.at(-1)!.seal()
    await author.catchUp()
    author.startWriting(Segment.create(3))
    expect(await made).toBe(2)
    await Promise.all(waiting)
    expect([counts.here.get('n'), counts.here.get('a')]).toEqual([3, 1])
    expect(author.position).toMatchObject({ epoch: 3, sequence: 4 })
  })

  it('go on to the next one when the writer is replaced in turn', async () => {
    const { forwarding, counts, writer, author } = await replaced()
    const way = new Way(forwarding, writer)
    await counts.here.put('a', 1)
    writer.pauseWriting()
    const waits = counts.here.put('b', 1)
    await until('it waits there', () => writer.stats().waiting === 1)
    const third = new StateLog()
    for (const segment of writer.segments) await third.adopt(segment.readOnly())
    writer.segments.at(-1)!.seal()
    await third.catchUp()
    const segment = Segment.create(3)
    third.startWriting(segment)
    await author.adopt(segment.readOnly())
    author.follow()
    const onward = writer.forwardWriting({ timeoutMs: 60_000, refusal })
    // The one in between has not kept it: its author has it still.
    await until('it is sent away', () => way.answers.length === 2)
    expect(writer.stats().waiting).toBe(0)
    new Way(onward, third)
    new Way(forwarding, third)
    await waits
    expect(third.section('counts', counterSchema).get('b')).toBe(1)
    third.close()
  })

  it('fail by an id that belongs to another change, and count once by the same', async () => {
    const { forwarding, counts, writer } = await replaced()
    new Way(forwarding, writer)
    await counts.there.put('a', 1, { request: 'order' })
    await counts.here.put('a', 2, { request: 'order' })
    await expect(counts.here.put('b', 1, { request: 'order' })).rejects.toThrow(code('ERR_FDB_STATE_REQUEST'))
    expect([counts.here.get('a'), writer.sequence]).toEqual([1, 2])
  })

  it('include bulks of any kind up to the limit, each one change', async () => {
    const { forwarding, counts, writer, author } = await replaced({
      writer: { limits: { waitingBytes: 1024 * 1024 } },
    })
    const way = new Way(forwarding, writer)
    await counts.here.bulk(Array.from({ length: 5000 }, (_, i) => ({ key: `k${i}`, value: i })))
    expect([counts.here.size, counts.there.get('k4999')]).toEqual([5001, 4999])
    expect(way.sent).toHaveLength(1)
    const big = Array.from({ length: 200 }, (_, i) => ({
      key: `b${i}`,
      value: untyped<number>('x'.repeat(10_000)),
    }))
    await expect(counts.here.bulk(big)).rejects.toThrow(code('ERR_FDB_STATE_LIMIT'))
    expect(author.stats().waiting).toBe(0)
    await counts.here.clear()
    expect(counts.there.size).toBe(0)
  })

  it('include updates of as many new sections as there may be, each one change', async () => {
    const { forwarding, counts, writer, author } = await replaced()
    new Way(forwarding, writer)
    const fresh = Array.from({ length: 100 }, (_, i) => author.section(`new-${i}`, counterSchema))
    const before = writer.sequence
    const made = author.update(state => {
      for (const section of fresh) state.put(section, 'k', (state.get(counts.here, 'n') ?? 0) + 1)
    })
    await made
    expect([writer.sequence, author.section('new-99').size]).toEqual([before + 1, 1])
  })

  it('fail where their author has higher limits: no process could read them there', async () => {
    const limits = { recordBytes: 64 * 1024 }
    const { forwarding, counts, writer } = await replaced({ writer: { limits } })
    new Way(forwarding, writer)
    const long = untyped<number>('x'.repeat(70_000))
    await expect(counts.here.put('long', long)).rejects.toThrow(code('ERR_FDB_STATE_LIMIT'))
    const bulk = counts.here.bulk(['a', 'long', 'z'].map(key => ({ key, value: key === 'long' ? long : 1 })))
    await expect(bulk).rejects.toThrow(code('ERR_FDB_STATE_LIMIT'))
    await counts.here.put('short', 1)
    const reader = new StateLog({ limits })
    for (const segment of writer.segments) await reader.adopt(segment.readOnly())
    expect(reader.position).toEqual(writer.position)
    expect(reader.section('counts').size).toBe(2)
    reader.close()
  })

  it('fail at once if no message takes them, and those behind them are made', async () => {
    const limits = { recordBytes: 24 * 1024 * 1024 }
    const { forwarding, counts, writer, author } = await replaced({ author: { limits }, writer: { limits } })
    const way = new Way(forwarding, writer)
    const reading = (keys: number, bytes: number) =>
      author.update(state => {
        for (let n = 0; n < keys; n++) state.has(counts.here, `${n}`.padEnd(bytes))
        state.put(counts.here, 'read', keys)
      })
    const whole = reading(32_000, 5)
    const refused = [
      reading(32_001, 5),
      reading(150, 60_000),
      counts.here.put('large', untyped('x'.repeat(17 * 1024 * 1024))),
    ].map(change => change.catch((why: FdbError) => why))
    const behind = counts.here.put('a', 1)
    const limit = (most: number, of: string) => ({
      code: 'ERR_FDB_STATE_LIMIT',
      message: expect.stringContaining(of),
      details: { most },
    })
    expect(await Promise.all(refused)).toMatchObject([
      limit(32_000, 'reads 32001 entries'),
      limit(8 * 1024 * 1024, 'bytes of keys'),
      limit(16 * 1024 * 1024 - 1022, 'bytes in one record'),
    ])
    await Promise.all([whole, behind])
    expect([counts.there.get('read'), counts.there.get('a'), counts.there.has('large')]).toEqual([
      32_000,
      1,
      false,
    ])
    expect(way.sent).toHaveLength(2)
  })

  it('keep the schema of their author; one that the writer may not read is refused', async () => {
    const { forwarding, author, writer } = await replaced()
    new Way(forwarding, writer)
    const schema = (version: number, minReader: number) =>
      defineSection<number>({ version, minReader, codec: json() })
    const old = writer.section('new', schema(1, 1))
    const fresh = author.section('new', schema(2, 1))
    await fresh.put('k', 1)
    expect([old.get('k'), old.version]).toEqual([1, 2])
    writer.section('newer', schema(1, 1))
    await expect(author.section('newer', schema(3, 2)).put('k', 1)).rejects.toThrow(code('ERR_FDB_SCHEMA'))
    await fresh.put('k', 2)
    expect(old.get('k')).toBe(2)
  })

  it('reach a service that has begun again with an empty state, and whose process knows their schema', async () => {
    const author = new StateLog()
    author.startWriting(Segment.create(1))
    await author.section('counts', counterSchema).put('n', 1)
    author.segments[0]!.seal()
    const forwarding = author.forwardWriting({ timeoutMs: 60_000, refusal })
    const segment = Segment.create(1)
    const [writer, reader] = [new StateLog(), new StateLog()]
    const there = writer.section('counts', counterSchema)
    writer.startWriting(segment)
    onTestFinished(() => {
      for (const each of [author, writer, reader]) each.close()
    })
    const sent = new Promise<ForwardedWrite>(resolve =>
      forwarding.connect({ send: (_, write) => resolve(write) }),
    )
    author
      .section('counts', counterSchema)
      .put('n', 2)
      .catch(() => {})
    expect(await make(writer, await sent)).toMatchObject({ outcome: 'applied' })
    expect(there.get('n')).toBe(2)
    // The schema is in the log, as after a change of that process itself.
    await reader.adopt(segment.readOnly())
    await reader.catchUp()
    expect(reader.section('counts', counterSchema).version).toBe(1)
  })

  it('count as made when no answer comes in time and they are in view', async () => {
    const { forwarding, writer, counts } = await replaced({ timeoutMs: 100 })
    const way = new Way(forwarding, writer)
    way.prompt = false
    await counts.here.put('n', 7)
    expect(way.answers).toHaveLength(1)
  })

  it('get an answer that has arrived in time, also when it is read late', async () => {
    const { forwarding, counts } = await replaced({ timeoutMs: 100, blind: true })
    const [here, there] = channelPair().map(channel => new Link(channel)) as [Link, Link]
    onTestFinished(() => {
      here.close()
      there.close()
    })
    const ignored = { broken: () => {}, end: () => {} }
    const error = new FdbError('ERR_FDB_SCHEMA', 'another schema')
    here.start({ ...ignored, message: () => forwarding.onAnswer(1, { outcome: 'refused', error }) })
    there.start({ ...ignored, message: () => {} })
    const stop = () => {
      for (const end = performance.now() + 200; performance.now() < end; );
    }
    forwarding.connect({
      send: () => {
        void there.send({ appended: {} })
        // As after a stop of this process: its timers come before what has arrived.
        process.nextTick(stop)
      },
    })
    const made = counts.here.put('n', 7)
    await expect(made).rejects.toThrow(code('ERR_FDB_SCHEMA'))
  })

  it('fail when no process takes them in time, and when the one that serves takes none', async () => {
    const { forwarding, counts, writer } = await replaced({ timeoutMs: 100 })
    await expect(counts.here.put('a', 1)).rejects.toThrow(code('ERR_FDB_FENCED'))
    const way = new Way(forwarding, writer)
    way.prompt = false
    writer.pauseWriting()
    // The outcome is unknown.
    await expect(counts.here.put('a', 1)).rejects.toThrow(code('ERR_FDB_DEADLINE'))
    writer.resumeWriting()
    forwarding.refuse()
    await expect(counts.here.put('b', 1)).rejects.toThrow(code('ERR_FDB_FENCED'))
    new Way(forwarding, writer)
    await counts.here.put('c', 1)
    expect(counts.there.get('c')).toBe(1)
  })

  describe('in flight when their way ends', () => {
    /** One is sent, and made in a segment that its author does not have; the one behind it was not sent. */
    async function sent(timeoutMs?: number) {
      const all = await replaced({ ...(timeoutMs && { timeoutMs }) })
      const { forwarding, counts, writer } = all
      writer.segments.at(-1)!.seal()
      const segment = Segment.create(3)
      writer.startWriting(segment)
      const way = new Way(forwarding, writer)
      way.prompt = false
      const made = counts.here.put('a', 1)
      await until('it is there', () => counts.there.get('a') === 1)
      forwarding.disconnect()
      const behind = counts.here.put('b', 1)
      // The test looks at the outcome of the one when that of the other is known.
      for (const change of [made, behind]) change.catch(() => {})
      return { ...all, segment, made, behind }
    }

    it('succeed where the next one takes none: they are found to be made', async () => {
      const { author, forwarding, counts, made, behind, segment } = await sent()
      forwarding.refuse()
      await expect(behind).rejects.toThrow(code('ERR_FDB_FENCED'))
      expect(author.stats().waiting).toBe(1)
      await author.adopt(segment.readOnly())
      author.follow()
      await made
      expect([counts.here.get('a'), counts.here.get('b'), author.stats().waiting]).toEqual([1, undefined, 0])
    })

    it('count once where the next one takes them late', async () => {
      const { forwarding, made, behind, segment, writer, author } = await sent()
      forwarding.refuse()
      await expect(behind).rejects.toThrow(code('ERR_FDB_FENCED'))
      new Way(forwarding, writer)
      await author.adopt(segment.readOnly())
      author.follow()
      await made
      expect(writer.sequence).toBe(2)
    })

    it('may have been made, which is what is said where it is not known in time, or this process ends', async () => {
      const late = await sent(100)
      late.forwarding.refuse()
      await expect(late.behind).rejects.toThrow(code('ERR_FDB_FENCED'))
      await expect(late.made).rejects.toThrow(code('ERR_FDB_DEADLINE'))
      const ends = await sent()
      ends.author.endWriting(refusal)
      await expect(ends.behind).rejects.toThrow(code('ERR_FDB_FENCED'))
      await expect(ends.made).rejects.toThrow(
        expect.objectContaining({ code: 'ERR_FDB_DEADLINE', cause: refusal }),
      )
    })
  })

  describe('in the queue while their client tries again itself', () => {
    /** One is forwarded, and waits for a handoff with its retry. */
    async function waiting(reads: ForwardedWrite['reads'] = []) {
      const { writer, counts } = await replaced()
      await counts.there.put('n', 1)
      writer.pauseWriting()
      const part = encodeBody([{ section: 'counts', op: PUT, key: 'n', value: Buffer.from('2'), version: 1 }])
      const forwarded = make(writer, { request: 'r', parts: [part], reads })
      const again = counts.there.update('n', next, { request: 'r' })
      const twice = counts.there.update('n', next, { request: 'r' })
      const behind = counts.there.put('m', 1)
      await nextTurn()
      return { writer, n: counts.there, forwarded, again, twice, behind }
    }

    it('count once, and the retry gets the value', async () => {
      const { writer, n, forwarded, again, twice, behind } = await waiting()
      const { sequence } = writer
      writer.resumeWriting()
      expect(await Promise.all([forwarded, again, twice, behind])).toMatchObject([
        { outcome: 'applied' },
        2,
        2,
        undefined,
      ])
      expect([n.get('n'), writer.sequence]).toEqual([2, sequence + 2])
      // The outcome is known by now.
      expect(await n.update('n', next, { request: 'r' })).toBe(2)
    })

    it('stay with their author at a handoff, and the retry is forwarded', async () => {
      const { writer, forwarded, again, twice, behind } = await waiting()
      const third = new StateLog()
      for (const segment of writer.segments) await third.adopt(segment.readOnly())
      writer.segments.at(-1)!.seal()
      await third.catchUp()
      const segment = Segment.create(3)
      third.startWriting(segment)
      await writer.adopt(segment.readOnly())
      const way = new Way(writer.forwardWriting({ timeoutMs: 60_000, refusal }), third)
      expect(await forwarded).toEqual({ outcome: 'again' })
      expect(await Promise.all([again, twice, behind])).toEqual([2, 2, undefined])
      expect(way.sent.map(({ write }) => write.request)).toEqual(['r', expect.any(String)])
      third.close()
    })

    it('fail where the entries that they have read have changed, and the retry succeeds', async () => {
      const { writer, forwarded, again, twice } = await waiting([
        { section: 'counts', key: 'n', mark: Buffer.from('another') },
      ])
      writer.resumeWriting()
      expect(await Promise.all([forwarded, again, twice])).toMatchObject([{ outcome: 'conflict' }, 2, 2])
    })

    it('fail, and so does the retry, where no process writes any more', async () => {
      const { writer, forwarded, again, twice, behind } = await waiting()
      const refused = [again, twice, behind].map(change => expect(change).rejects.toBe(refusal))
      writer.endWriting(refusal)
      await Promise.all(refused)
      expect(await forwarded).toEqual({ outcome: 'again' })
    })
  })

  it('go again after a conflict when they are computed from newer state, not before', async () => {
    const { author, forwarding, counts, writer, segment } = await replaced({ blind: true })
    const way = new Way(forwarding, writer)
    await counts.there.update('n', next)
    const counted = counts.here.update('n', next)
    await until('the conflict is answered', () => way.answers.length === 1)
    await author.adopt(segment.readOnly())
    author.follow()
    await counted
    expect([counts.here.get('n'), way.sent.length]).toEqual([3, 2])
  })

  it('go again ever more rarely where the newer state cannot be read', async () => {
    const { forwarding, counts, writer } = await replaced({ blind: true, timeoutMs: 500 })
    const way = new Way(forwarding, writer)
    await counts.there.update('n', next)
    await expect(counts.here.update('n', next)).rejects.toEqual(code('ERR_FDB_DEADLINE'))
    expect(way.sent.length).toBeLessThanOrEqual(4)
  })

  it('go again at their rate too where the process that writes answers a conflict to no change', async () => {
    const { forwarding, counts } = await replaced({ timeoutMs: 500 })
    const sent: number[] = []
    forwarding.connect({
      send: number => {
        sent.push(number)
        queueMicrotask(() => forwarding.onAnswer(number, { outcome: 'conflict', sequence: 0 }))
      },
    })
    await expect(counts.here.update('n', next)).rejects.toEqual(code('ERR_FDB_DEADLINE'))
    expect(sent.length).toBeLessThanOrEqual(4)
  })

  it('fail if they are no changes, and nothing is made of them', async () => {
    const { writer } = await replaced()
    const forge = (part: Uint8Array) => make(writer, { request: 'r', parts: [part], reads: [] })
    const stored = { name: 'x', version: 1, minReader: 1, codec: 'json', secret: false }
    const changes = [{ section: 'counts', op: PUT, key: 'n', value: Buffer.from('2'), version: 1 }]
    for (const part of [
      encodeEnvelope({ epoch: 9, sequence: 99 }),
      encodeEnvelope({ changes, epoch: 9 }),
      encodeEnvelope({ changes, sequence: 99 }),
      encodeEnvelope({ changes, request: 'another' }),
      encodeEnvelope({ changes, requests: ['another'] }),
      encodeEnvelope({ changes, end: { entries: 1, digest: '' } }),
      encodeEnvelope({ changes, part: { index: 1, last: true } }),
      encodeEnvelope({ changes: [{ section: 'counts', op: untyped(7), key: 'a' }] }),
      encodeEnvelope({ changes: [{ section: 'unknown', op: 0, key: 'a', version: 1 }] }),
      encodeEnvelope({ changes: [{ section: 'counts', op: 0, key: 'a', version: 9 }] }),
      encodeEnvelope({ changes: [{ section: '', op: 0, key: 'a' }] }),
      Buffer.from([1, 2, 3]),
    ])
      expect(await forge(part)).toMatchObject({ outcome: 'refused', error: expect.any(FdbError) })
    expect(await forge(encodeSchema(stored))).toMatchObject({ outcome: 'refused' })
    expect(writer.sequence).toBe(1)
  })
})
