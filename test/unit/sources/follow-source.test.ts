import { codec, defineSection, join } from 'fd-broker'
import {
  EtcdSource,
  FolderSource,
  followSource,
  HttpSource,
  type Source,
  type SourceBatch,
} from 'fd-broker/sources'
import { describe, expect, it, onTestFinished } from 'vitest'
import { until } from '../../processes/until.js'

const entry = (key: string, value: unknown) => ({ key, value: Buffer.from(JSON.stringify(value)) })

/** Each call of `read` yields the next of these, and then waits; an error is thrown; `same`: the store answers that it has nothing new. */
class Script implements Source {
  readonly id = 'script'
  readonly asked: (string | null)[] = []
  readonly #calls: (SourceBatch | Error | 'same')[][]
  ended = 0

  constructor(...calls: (SourceBatch | Error | 'same')[][]) {
    this.#calls = calls
  }

  async *read(
    since: string | null,
    signal: AbortSignal,
    _known: object,
    unchanged: () => void,
  ): AsyncGenerator<SourceBatch, void> {
    this.asked.push(since)
    try {
      for (const step of this.#calls.shift() ?? []) {
        if (step instanceof Error) throw step
        if (step === 'same') unchanged()
        else yield step
      }
      if (!signal.aborted) await new Promise(resolve => signal.addEventListener('abort', resolve))
    } finally {
      this.ended++
    }
  }
}

async function shop() {
  const member = await join({ service: 'shop', control: false })
  onTestFinished(() => member.close())
  const validate = (value: number) => {
    if (value < 0) throw new Error('below zero')
  }
  const prices = member.section(
    'prices',
    defineSection({ version: 1, codec: codec.json<number>(), validate }),
  )
  return { member, prices }
}

describe('a followed source', () => {
  it('arrives as one change however many entries it has, without those that the section refuses', async () => {
    const { member, prices } = await shop()
    const all = Array.from({ length: 3_000 }, (_, n) => entry(`${n}`, n === 7 ? -1 : n))
    const source = new Script([{ all, revision: '1' }], [])
    const followed = followSource(member, prices, source)
    await followed.contents(AbortSignal.timeout(60_000))
    expect(prices.size).toBe(2_999)
    expect(followed.status).toMatchObject({
      revision: '1',
      refusedCount: 1,
      refused: { 7: expect.stringContaining('below zero') },
    })
  })

  it('arrives without those that the section refuses however large all are', async () => {
    const { member, prices } = await shop()
    const large = 'x'.repeat(1024 * 1024)
    const all = Array.from({ length: 20 }, (_, n) => entry(`${n}`, n === 7 ? -1 : large))
    const followed = followSource(member, prices, new Script([{ all, revision: '1' }], []))
    await until('it has all others', () => prices.size === 19, 60_000)
    expect(followed.status).toMatchObject({ revision: '1', refusedCount: 1, failure: null })
  })

  it('lists what has gone, and leaves equal entries alone', async () => {
    const { member, prices } = await shop()
    await prices.put('kept', 1)
    await prices.put('gone', 2)
    const seen: string[] = []
    prices.onChange(({ op, key }) => void seen.push(`${op} ${key}`))
    const source = new Script([{ all: [entry('kept', 1), entry('new', 3)], revision: '1' }])
    await followSource(member, prices, source).contents(AbortSignal.timeout(60_000))
    expect(seen).toEqual(['put new', 'delete gone'])
  })

  it('applies no batch to a section that another process has brought further meanwhile', async () => {
    const { member, prices } = await shop()
    const revisions = member.section('sources')
    await prices.put('apple', 0)
    const source = new Script([{ all: [entry('apple', 1)], revision: '2' }], [])
    const parse = (_key: string, bytes: Uint8Array) => {
      // As the next version does while the last batch of this one is under way.
      void revisions.put('prices', Buffer.from(JSON.stringify({ id: 'script', revision: '9' })))
      return Number(Buffer.from(bytes).toString())
    }
    const followed = followSource(member, prices, source, { parse })
    await until('it reads from there', () => source.asked.includes('9'), 60_000)
    expect(source.asked).toEqual([null, '9'])
    expect(followed.status).toMatchObject({ revision: '9', applied: 0 })
    expect(prices.get('apple')).toBe(0)
  })

  it('reads again after a failure from the last revision, and tells of it until then', async () => {
    const { member, prices } = await shop()
    const told: string[] = []
    const log = (_facts: object, text: string) => void told.push(text)
    const source = new Script(
      [{ all: [entry('apple', 1)], revision: '1' }, new Error('the store is away')],
      [{ changes: [entry('apple', 2), { key: 'pear', value: null }], revision: '2' }],
    )
    const followed = followSource(member, prices, source, {
      logger: { debug: log, info: log, warn: log, error: log },
    })
    await until('the failure', () => followed.status.failure?.message === 'the store is away', 60_000)
    await until('the change', () => followed.status.revision === '2', 60_000)
    expect(source.asked).toEqual([null, '1'])
    expect(prices.get('apple')).toBe(2)
    expect(followed.status.failure).toBeNull()
    expect(told).toEqual([expect.stringMatching(/cannot be read/), expect.stringMatching(/again$/)])
  })

  it('tells of no failure any more when the store answers that nothing has changed', async () => {
    const { member, prices } = await shop()
    const away = new Error('the store is away')
    const source = new Script([{ all: [entry('apple', 1)], revision: '1' }, away], ['same'])
    const followed = followSource(member, prices, source)
    await until('the failure', () => followed.status.failure !== null, 60_000)
    await until('the answer', () => followed.status.failure === null, 60_000)
    expect([source.asked, followed.status.applied, prices.get('apple')]).toEqual([[null, '1'], 1, 1])
  })

  it('forgets the revision of a store that gives its contents none any more', async () => {
    const { member, prices } = await shop()
    const source = new Script(
      [
        { all: [entry('apple', 1)], revision: '1' },
        { all: [entry('apple', 2)], revision: null },
        new Error('the store is away'),
      ],
      [],
    )
    const followed = followSource(member, prices, source)
    await until('it reads again', () => source.asked.length === 2, 60_000)
    expect([source.asked, followed.status.revision, prices.get('apple')]).toEqual([[null, null], null, 2])
  })

  it('ends with its member', async () => {
    const { member, prices } = await shop()
    const source = new Script([{ all: [], revision: '1' }])
    const followed = followSource(member, prices, source)
    await followed.contents(AbortSignal.timeout(60_000))
    await member.ready()
    expect(followed.status.reading).toBe(true)
    await member.close()
    expect(source.ended).toBe(source.asked.length)
  })

  it('ends with a member that has never served', async () => {
    const { member, prices } = await shop()
    const source = new Script([])
    followSource(member, prices, source)
    await until('it reads', () => source.asked.length === 1, 60_000)
    await member.close()
    await until('it has ended', () => source.ended === 1, 60_000)
  })

  it('names the store that cannot be read', async () => {
    const { signal } = new AbortController()
    const source = new EtcdSource({ hosts: ['http://127.0.0.1:1'], prefix: '/' })
    await expect(source.read(null, signal).next()).rejects.toMatchObject({
      code: 'ERR_FDB_SOURCE',
      message: expect.stringMatching(/etcd at 127\.0\.0\.1:1, .*ECONNREFUSED/),
    })
  })

  it('refuses wrong options at the call', async () => {
    const { member, prices } = await shop()
    const code = 'ERR_FDB_OPTION'
    expect(() => followSource(member, prices, JSON.parse('{}'))).toThrow(expect.objectContaining({ code }))
    expect(() => new EtcdSource({ hosts: [], prefix: '/' })).toThrow(expect.objectContaining({ code }))
    expect(() => new EtcdSource({ hosts: ['127.0.0.1:2379'], prefix: '/' })).toThrow(/http:/)
    expect(() => new EtcdSource({ hosts: ['http://a'], prefix: '' })).toThrow(/prefix/)
    expect(() => new FolderSource({ folder: '' })).toThrow(expect.objectContaining({ code }))
    expect(() => new HttpSource({ url: 'file:///etc' })).toThrow(/http:/)
  })
})
