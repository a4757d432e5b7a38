import { existsSync, readFileSync } from 'node:fs'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { fdbroker } from '../../../src/proto/state.js'
import {
  bytes,
  type Codec,
  defineSection,
  json,
  msgpack,
  protobuf,
  Segment,
  StateLog,
} from '../../fixtures/state.js'
import { readBy, writingLog } from '../../fixtures/state-logs.js'

const code = (expected: string) => expect.objectContaining({ code: expected })

/** The log as the next process gets it: sealed, read, and writing to its own segment. */
async function nextProcess(log: StateLog, epoch: number): Promise<StateLog> {
  for (const segment of log.segments) if (!segment.sealed) segment.seal()
  const next = await readBy(log)
  next.startWriting(Segment.create(epoch))
  return next
}

describe('codecs', () => {
  it('bring values through the log', async () => {
    const { log } = writingLog()
    const value = { text: 'ä€😀', list: [1, 2.5, -3], nested: { yes: true, none: null } }
    const codecs: Codec<unknown>[] = [json(), msgpack()]
    for (const codec of codecs) {
      const section = log.section(codec.name, defineSection({ version: 1, codec, cache: 0 }))
      await section.put('k', value)
      expect(section.get('k')).toEqual(value)
    }
    const raw = log.section('raw', defineSection({ version: 1, codec: bytes() }))
    await raw.put('', Buffer.from([0, 255, 7]))
    expect([...raw.get('')!]).toEqual([0, 255, 7])
    log.close()
  })

  it('refuse a value that the format would change: the reader would get another one', async () => {
    const { log } = writingLog()
    const section = log.section('msgpack', defineSection({ version: 1, codec: msgpack() }))
    const changed: unknown[] = [
      'half \ud83d',
      { text: ['\ude00'] },
      { '\ud83d': 1 },
      JSON.parse('{"__proto__":1}'),
    ]
    for (const value of changed)
      await expect(section.put('k', value)).rejects.toThrow(code('ERR_FDB_STATE_VALUE'))
    await section.put('k', { '😀': 'ä€😀' })
    expect(section.get('k')).toEqual({ '😀': 'ä€😀' })
    log.close()
  })

  it('protobuf keeps fields that this version does not know when an entry is changed and put back', async () => {
    const { log } = writingLog()
    // The newer version's message: Record has fields that Header does not know, with other numbers from 5 on.
    const newer = fdbroker.state.Change.encode({ section: 'old', version: 77 }).finish()
    await log
      .section('routes', defineSection({ version: 1, codec: { ...bytes(), name: 'protobuf' } }))
      .put('k', newer)
    const older = await nextProcess(log, 2)
    const codec = protobuf<fdbroker.state.Header, fdbroker.state.Header.$Properties>(fdbroker.state.Header)
    const section = older.section('routes', defineSection({ version: 1, codec }))
    const entry = section.get('k')!
    expect(entry.magic).toBe('old')
    entry.magic = 'new'
    await section.put('k', entry)
    const again = fdbroker.state.Change.decode(await raw(older, 'k'))
    expect([again.section, again.version]).toEqual(['new', 77])
    older.close()
    log.close()
  })
})

async function raw(log: StateLog, key: string): Promise<Uint8Array> {
  const reader = await readBy(log)
  const value = Uint8Array.from(reader.section('routes').get(key)!)
  reader.close()
  return value
}

describe('an object that is changed in place', () => {
  const { log } = writingLog()
  const section = log.section('routes', defineSection({ version: 1, codec: json<{ to: string }>() }))

  it('counts when it was put back and is in the log, not before, and not when it was refused', async () => {
    await section.put('a', { to: 'x' })
    const change = () => {
      const value = section.get('a')!
      value.to = 'y'
      return section.put('a', value)
    }
    log.pauseWriting()
    const waits = change()
    expect(section.get('a')).toEqual({ to: 'x' })
    log.endWriting(new FdbError('ERR_FDB_FENCED', 'another serves'))
    await expect(waits).rejects.toThrow(code('ERR_FDB_FENCED'))
    await expect(change()).rejects.toThrow(code('ERR_FDB_FENCED'))
    expect(section.get('a')).toEqual({ to: 'x' })
    log.startWriting(log.segments[0]!)
    await change()
    expect(section.get('a')).toEqual({ to: 'y' })
    log.close()
  })
})

describe('schemas', () => {
  const v = (version: number, minReader = 1) => defineSection({ version, minReader, codec: json() })

  it('stand in the log, so that it describes itself', async () => {
    const { log } = writingLog()
    await log
      .section('keys', defineSection({ version: 3, minReader: 2, codec: json(), secret: true }))
      .put('k', 1)
    const reader = await readBy(log)
    const keys = reader.section('keys')
    expect([keys.version, keys.secret, keys.size]).toEqual([3, true, 1])
    expect(reader.digests()).toMatchObject([{ name: 'keys', version: 3, entries: 1 }])
    reader.close()
    log.close()
  })

  it('need a codec', () => {
    for (const text of ['{"version":1}', '{"version":1,"codec":{}}'])
      expect(() => defineSection(JSON.parse(text))).toThrow(code('ERR_FDB_SCHEMA'))
  })

  it('refuse a reader that is too old, naming section, versions and remedy', async () => {
    const { log } = writingLog()
    await log.section('routes', v(5, 4)).put('k', 1)
    const reader = await readBy(log)
    expect(() => reader.section('routes', v(3))).toThrow(code('ERR_FDB_SCHEMA'))
    expect(() => reader.section('routes', v(3))).toThrow(
      /"routes".*version 5.*version 4.*has version 3.*Run a release/,
    )
    expect(reader.section('routes', v(4)).get('k')).toBe(1)
    const early = new StateLog()
    early.section('routes', v(3))
    await expect(early.adopt(log.segments[0]!.readOnly())).rejects.toThrow(code('ERR_FDB_SCHEMA'))
    expect(early.position).toEqual(log.position)
    for (const one of [log, reader, early]) one.close()
  })

  it('refuse another codec, and a second schema for one section', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', v(1))
    await routes.put('k', 1)
    expect(() => log.section('routes', v(1))).toThrow(code('ERR_FDB_SCHEMA'))
    expect(log.section('routes')).toBe(routes)
    const reader = await readBy(log)
    expect(() => reader.section('routes', defineSection({ version: 1, codec: msgpack() }))).toThrow(
      /codec "json"/,
    )
    reader.close()
    log.close()
  })

  it('have checks when they are defined', () => {
    expect(() => v(0)).toThrow(code('ERR_FDB_SCHEMA'))
    expect(() => v(2, 3)).toThrow(code('ERR_FDB_SCHEMA'))
  })

  it('up, down and up again keep the digest, unknown sections and the newest schema', async () => {
    const { log } = writingLog()
    await log.section('routes', v(1)).put('a', { old: 1 })
    const newer = await nextProcess(log, 2)
    await newer.section('routes', v(2)).put('b', { newField: 1 })
    await newer.section('only-new', v(1)).put('x', 'kept')
    const older = await nextProcess(newer, 3)
    const routes = older.section('routes', v(1))
    expect([routes.get('b'), routes.version]).toEqual([{ newField: 1 }, 2])
    await older.compact()
    expect(older.position.digest).toBe(newer.position.digest)
    await routes.put('c', { old: 2 })
    const again = await nextProcess(older, 4)
    expect([again.section('only-new', v(1)).get('x'), again.section('routes', v(2)).version]).toEqual([
      'kept',
      2,
    ])
    expect(again.position.digest).toBe(older.position.digest)
    for (const one of [log, newer, older, again]) one.close()
  })

  it('call validate() as a method of the schema', async () => {
    const { log } = writingLog()
    const options = {
      version: 9,
      codec: json(),
      validate(this: { readonly version: number }, value: unknown) {
        if ((value as number) > this.version) throw new Error('too large')
      },
    }
    const numbers = log.section('n', defineSection<unknown>(options))
    await numbers.put('k', 9)
    await expect(numbers.put('k', 10)).rejects.toThrow('too large')
    expect(numbers.get('k')).toBe(9)
    log.close()
  })

  it('validate what is put and what is read', async () => {
    const { log } = writingLog()
    const validate = (value: unknown) => {
      if (typeof value !== 'number') throw new TypeError(`no number: ${String(value)}`)
    }
    const numbers = log.section('n', defineSection<unknown>({ version: 1, codec: json(), validate }))
    await expect(numbers.put('k', 'text')).rejects.toThrow('no number')
    await numbers.put('k', 7)
    await log.section('m', defineSection<unknown>({ version: 1, codec: json() })).put('k', 'text')
    const reader = await readBy(log)
    const strict = reader.section('m', defineSection<unknown>({ version: 1, codec: json(), validate }))
    expect(() => strict.get('k')).toThrow(code('ERR_FDB_STATE_VALUE'))
    expect(numbers.get('k')).toBe(7)
    reader.close()
    log.close()
  })

  it('keep a secret value out of the error that says it is not valid', async () => {
    const { log } = writingLog()
    await log.section('s').put('k', Buffer.from('hunter2'))
    const reader = await readBy(log)
    const secret = reader.section('s', defineSection({ version: 1, codec: json(), secret: true }))
    try {
      secret.get('k')
      expect.unreachable()
    } catch (error) {
      expect([String(error).includes('hunter2'), (error as Error).cause]).toEqual([false, undefined])
    }
    reader.close()
    log.close()
  })
})

/** System calls of this process that read. */
function reads(): number {
  return Number(/^syscr: (\d+)$/m.exec(readFileSync('/proc/self/io', 'utf8'))?.[1])
}

describe('iteration', () => {
  it('sees every entry, in one go or in slices, while others change', async () => {
    const { log } = writingLog()
    const section = log.section('n', defineSection<number>({ version: 1, codec: json() }))
    await section.bulk(Array.from({ length: 5000 }, (_, i) => ({ key: `k${i}`, value: i })))
    expect([...section].length).toBe(5000)
    const seen = new Set<string>()
    for await (const [key, value] of section) {
      seen.add(key)
      if (value % 100 === 0) await section.put(key, value + 1)
    }
    expect(seen.size).toBe(5000)
    expect(new Set(section.keys())).toEqual(seen)
    log.close()
  })

  it('leaves out what was deleted meanwhile, and takes nothing for what has come in its place', async () => {
    const { log } = writingLog()
    const section = log.section('n', defineSection<string>({ version: 1, codec: json() }))
    const count = 3000
    await section.bulk(Array.from({ length: count }, (_, i) => ({ key: `k${i}`, value: `of k${i}` })))
    const seen = new Set<string>()
    const deleted = new Set<string>()
    for await (const [key, value] of section) {
      expect([value, seen.has(key), deleted.has(key)]).toEqual([`of ${key}`, false, false])
      seen.add(key)
      if (seen.size % 500 !== 100) continue
      const gone = Array.from({ length: 200 }, (_, i) => `k${(seen.size * 7 + i * 11) % count}`)
      for (const other of gone) {
        void section.delete(other)
        if (!seen.has(other)) deleted.add(other)
        void section.put(`new ${other}`, `of new ${other}`)
      }
    }
    const left = [...section.keys()].filter(key => !key.startsWith('new'))
    expect(left.length).toBeLessThan(count)
    for (const key of left) expect(seen).toContain(key)
    log.close()
  })

  it.each(['a bulk over all of it', 'others in the place of all'])(
    'goes on with what is there by then: %s',
    async change => {
      const { log } = writingLog({ sliceMs: 0 })
      const section = log.section('n', defineSection<string>({ version: 1, codec: json() }))
      const all = (value: string, from = 0) =>
        Array.from({ length: 20_000 }, (_, i) => ({ key: `k${from + i}`, value }))
      await section.bulk(all('old'))
      const entries = section.entries()
      for (let i = 0; i < 100; i++) entries.next()
      if (change === 'a bulk over all of it') {
        void section.bulk(all('new'))
        // The value counts at once, and is merged bit by bit.
        while (section.get('k0') === 'old') await nextTurn()
      } else {
        await section.clear()
        await section.bulk(all('new', 10_000))
      }
      const seen = [...entries]
      expect(seen.filter(([, value]) => value !== 'new').slice(0, 3)).toEqual([])
      expect(seen.length).toBeGreaterThan(9_000)
      // And nothing is remembered of what was there.
      for (const [key] of seen.slice(-1000)) expect(section.get(key)).toBe('new')
      expect([section.has('k0'), section.get('k0')]).toEqual(
        change === 'a bulk over all of it' ? [true, 'new'] : [false, undefined],
      )
      await section.settled()
      log.close()
    },
  )

  it.runIf(existsSync('/proc/self/io'))('reads many entries in one go, wherever their keys lie', async () => {
    const { log } = writingLog()
    const section = log.section('n', defineSection<number>({ version: 1, codec: json() }))
    const count = 60_000
    const key = (i: number) => `k${i}`.padEnd(200, '.')
    await section.bulk(Array.from({ length: count }, (_, i) => ({ key: key(i), value: i })))
    const before = reads()
    let sum = 0
    for await (const [, value] of section) sum += value
    const taken = reads() - before
    expect(sum).toBe((count * (count - 1)) / 2)
    // A slice ends after some milliseconds, so a busy machine reads more often; one by one it would be `count`.
    expect(taken).toBeLessThan(count / 4)
    log.close()
  })

  it('in slices may be left, and ends then', async () => {
    const { log } = writingLog()
    const section = log.section('n', defineSection<number>({ version: 1, codec: json() }))
    await section.bulk(Array.from({ length: 300 }, (_, i) => ({ key: `k${i}`, value: i })))
    const entries = section[Symbol.asyncIterator]()
    let seen = 0
    for await (const _ of entries) if (++seen === 10) break
    expect(await entries.next()).toEqual({ done: true, value: undefined })
    expect(seen).toBe(10)
    log.close()
  })

  it('finds entries by keys in any script', async () => {
    const { log } = writingLog()
    const section = log.section('n', defineSection<number>({ version: 1, codec: json() }))
    const keys = ['plain', 'größe', 'grosse', 'ключ', '鍵', 'a\u{1f511}', '\u007f', '\u0080']
    await section.bulk(keys.map((key, value) => ({ key, value })))
    expect(keys.map(key => section.get(key))).toEqual([...keys.keys()])
    log.close()
  })
})
