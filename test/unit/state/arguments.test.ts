import { describe, expect, it } from 'vitest'
import { FdbError, FdbTypeError } from '../../../src/errors.js'
import { fdbroker } from '../../../src/proto/state.js'
import { bytes, defineSection, json, msgpack, protobuf } from '../../fixtures/state.js'
import { readBy, writingLog } from '../../fixtures/state-logs.js'
import { untyped } from '../../fixtures/untyped.js'

async function refusal(work: () => unknown): Promise<Error & { code: string }> {
  try {
    await work()
  } catch (error) {
    return error as Error & { code: string }
  }
  return expect.fail('it was not refused')
}

describe('the name of a section', () => {
  it('must be text that UTF-8 can carry: no segment could be read with another name', async () => {
    const { log } = writingLog()
    for (const [name, said] of [
      [5, /is of type number; give a string/],
      ['', /is empty; give a string/],
      ['users\ud800', /has half a surrogate pair; give valid Unicode text/],
    ] as const) {
      const error = await refusal(() => log.section(untyped(name)))
      expect([error.code, error.message]).toEqual(['ERR_FDB_OPTION', expect.stringMatching(said)])
    }
    await log.section('users \u{1f600}').put('a', new Uint8Array(1))
    log.close()
  })
})

describe('a key', () => {
  it('must be a string: anything else is a TypeError at the call, in every method, and changes nothing', async () => {
    const { log } = writingLog()
    const section = log.section('users', defineSection({ version: 1, codec: json() }))
    await section.put('1', 'one')
    const { position } = log
    for (const key of [1, null, undefined, {}, ['a'], true, Symbol('x'), 10n]) {
      const calls = [
        () => section.put(untyped(key), 'x'),
        () => section.delete(untyped(key)),
        () =>
          section.bulk([
            { key: 'a', value: 'x' },
            { key: untyped(key), value: 'x' },
          ]),
        () => section.bulk([{ key: untyped(key), delete: true }]),
        () => section.get(untyped(key)),
        () => section.has(untyped(key)),
      ]
      for (const call of calls) {
        const error = await refusal(call)
        expect(error).toBeInstanceOf(TypeError)
        expect(error.code).toBe('ERR_FDB_STATE_KEY')
        expect(FdbError.is(error)).toBe(true)
      }
    }
    const error = await refusal(() => section.put(untyped(101), 'x'))
    expect(error.message).toMatch(/section "users".*a key is of type number; give a string/)
    expect(log.position).toEqual(position)
    log.close()
  })

  it('takes the options of each change, and no others', async () => {
    const { log } = writingLog()
    const section = log.section('users', defineSection({ version: 1, codec: json() }))
    const { position } = log
    const calls: ((options: never) => Promise<unknown>)[] = [
      options => section.put('a', 1, options),
      options => section.delete('a', options),
      options => section.update('a', () => 1, options),
      options => section.clear(options),
      options => section.bulk([{ key: 'a', value: 1 }], options),
      options => log.update(state => state.put(section, 'a', 1), options),
    ]
    for (const call of calls) {
      for (const [options, said] of [
        [{ durabel: true }, /no option "durabel" \(did you mean "durable"\?\)/],
        [{ durable: 1 }, /option "durable" is 1; give true or false/],
        [null, /are null; give an object with any of request, durable/],
        ['id', /are "id"; give an object/],
      ] as const) {
        const error = await refusal(() => call(untyped(options)))
        expect([error.code, error.message]).toEqual(['ERR_FDB_OPTION', expect.stringMatching(said)])
      }
    }
    expect(log.position).toEqual(position)
    log.close()
  })

  it('names a section only when it is a string', async () => {
    const { log } = writingLog()
    for (const name of [undefined, null, 5, {}]) {
      const error = await refusal(() => log.section(untyped(name)))
      expect([error instanceof FdbTypeError, error.code]).toEqual([true, 'ERR_FDB_OPTION'])
    }
    expect(
      (await refusal(() => log.section('s').put('k', Buffer.alloc(1), { request: untyped(7) }))).code,
    ).toBe('ERR_FDB_OPTION')
    for (const changes of [null, 5, [null], [5], [{ key: 'k' }]]) {
      const error = await refusal(() => log.section('s').bulk(untyped(changes)))
      expect([error instanceof TypeError, error.code]).toEqual([true, 'ERR_FDB_STATE_VALUE'])
    }
    expect(log.position.sequence).toBe(0)
    log.close()
  })
})

describe('a value that would not come back as it was', () => {
  const values: [string, unknown][] = [
    ['undefined', undefined],
    ['a function', () => 1],
    ['a symbol', Symbol('x')],
    ['a Map', new Map([[1, 2]])],
    ['a Set', new Set([1])],
    ['a RegExp', /x/],
    ['an Error', new Error('x')],
    ['a Promise', Promise.resolve()],
    ['an ArrayBuffer', new ArrayBuffer(2)],
    ['a Float32Array', new Float32Array(2)],
    ['a method', { nested: [{ run() {} }] }],
    ['a Map inside', { nested: { map: new Map() } }],
    ['a bigint of more than 64 bits', 2n ** 70n],
  ]
  const jsonOnly: [string, unknown][] = [
    ['NaN', Number.NaN],
    ['Infinity', { n: Number.POSITIVE_INFINITY }],
    ['undefined in a list', [1, undefined]],
    ['bytes', Buffer.from('x')],
    ['bytes inside', { b: new Uint8Array(1) }],
    ['a bigint', 10n],
    ['a cycle', cycle()],
  ]

  it.each([...values, ...jsonOnly])('%s: is refused by json(), and nothing is written', async (_, value) => {
    const { log } = writingLog()
    const section = log.section<unknown>('s', defineSection<unknown>({ version: 1, codec: json() }))
    const error = await refusal(() => section.put('k', value))
    expect([error instanceof TypeError, error.code]).toEqual([true, 'ERR_FDB_STATE_VALUE'])
    expect(error.message).toMatch(/section "s", key "k": codec "json" does not accept the value: /)
    expect(section.size).toBe(0)
    log.close()
  })

  it.each(values)('%s: is refused by msgpack()', async (_, value) => {
    const { log } = writingLog()
    const section = log.section<unknown>('s', defineSection<unknown>({ version: 1, codec: msgpack() }))
    const error = await refusal(() => section.put('k', value))
    expect([error instanceof TypeError, error.code]).toEqual([true, 'ERR_FDB_STATE_VALUE'])
    log.close()
  })

  it('causes an error with its place, unless the section is secret', async () => {
    const { log } = writingLog()
    const open = log.section<unknown>('s', defineSection<unknown>({ version: 1, codec: json() }))
    const deep = { items: [{ at: 1 }, { at: Number.NaN }] }
    expect((await refusal(() => open.put('k', deep))).message).toMatch(/its\.items\[1\]\.at is NaN/)
    const secret = log.section<unknown>(
      't',
      defineSection<unknown>({ version: 1, codec: json(), secret: true }),
    )
    const error = await refusal(() => secret.put('k', deep))
    expect([error.message.includes('items'), error.cause]).toEqual([false, undefined])
    log.close()
  })

  it('covers all but bytes where a section has bytes, and all but an object for protobuf', async () => {
    const { log } = writingLog()
    const raw = log.section('raw')
    const typed = log.section('typed', defineSection({ version: 1, codec: bytes() }))
    const message = log.section('p', defineSection({ version: 1, codec: protobuf(fdbroker.state.Header) }))
    for (const value of [
      'text',
      5,
      null,
      undefined,
      { a: 1 },
      [1, 2],
      new Float32Array(1),
      new ArrayBuffer(1),
    ]) {
      for (const section of [raw, typed]) {
        const error = await refusal(() => section.put('k', untyped(value)))
        expect([error instanceof TypeError, error.code]).toEqual([true, 'ERR_FDB_STATE_VALUE'])
      }
    }
    for (const value of ['text', 5, null, undefined])
      expect((await refusal(() => message.put('k', untyped(value)))).code).toBe('ERR_FDB_STATE_VALUE')
    const own = { name: 'own', encode: () => untyped<Uint8Array>('text'), decode: () => 1 }
    const error = await refusal(() =>
      log.section('own', defineSection({ version: 1, codec: own })).put('k', 1),
    )
    expect(error.message).toMatch(/encode\(\) returned string, not a Uint8Array/)
    expect(log.position.sequence).toBe(0)
    log.close()
  })

  it('causes an error with its place if the format would drop a field: one whose name is a symbol, or one beside the elements of an array', async () => {
    const { log } = writingLog()
    const matched = /(b)/.exec('abc')!
    const tagged = { items: [{ [Symbol('tag')]: 1 }] }
    for (const codec of [json<unknown>(), msgpack<unknown>()]) {
      const section = log.section<unknown>(codec.name, defineSection<unknown>({ version: 1, codec }))
      const symbol = await refusal(() => section.put('k', tagged))
      expect(symbol.message).toMatch(/its\.items\[0\]\[Symbol\(tag\)\] is a field whose name is a symbol/)
      const field = await refusal(() => section.put('k', { matched }))
      expect(field.message).toMatch(/its\.matched\.index is a field of an array/)
      expect([symbol.code, field.code]).toEqual(['ERR_FDB_STATE_VALUE', 'ERR_FDB_STATE_VALUE'])
      // The reader sees no difference.
      const hidden = Object.defineProperty({ a: 1 }, Symbol('hidden'), { value: 1 })
      await section.put('k', { hidden, list: [...matched], none: { [Symbol('none')]: undefined } })
      expect(section.get('k')).toEqual({ hidden: { a: 1 }, list: ['b', 'b'], none: {} })
    }
    log.close()
  })

  it('causes an error in msgpack if it is a boxed text, number or boolean: the format would write an object', async () => {
    const { log } = writingLog()
    const section = log.section<unknown>('m', defineSection<unknown>({ version: 1, codec: msgpack() }))
    for (const boxed of [Object('text'), Object(5), Object(false), Object(1n), Object(Symbol('x'))]) {
      const error = await refusal(() => section.put('k', { at: boxed }))
      expect([error.code, error.message]).toEqual([
        'ERR_FDB_STATE_VALUE',
        expect.stringMatching(/its\.at is of class (?:String|Number|Boolean|BigInt|Symbol)/),
      ])
    }
    log.close()
  })

  it('has a codec of protobuf only with a message type, which is checked at the call', async () => {
    for (const type of [undefined, null, {}, 'Header', { encode() {} }]) {
      const error = await refusal(() => protobuf(untyped<typeof fdbroker.state.Header>(type)))
      expect([error.code, error.message]).toEqual([
        'ERR_FDB_OPTION',
        expect.stringMatching(/give a message type of protobufjs/),
      ])
    }
  })

  it('covers no value that says itself how it is written, no field without a value, and none that comes back', async () => {
    const { log } = writingLog()
    const section = log.section<unknown>('j', defineSection<unknown>({ version: 1, codec: json() }))
    await section.put('k', { at: new Date(0), none: undefined, deep: [null, true, { n: -1.5 }] })
    expect(section.get('k')).toEqual({ at: '1970-01-01T00:00:00.000Z', deep: [null, true, { n: -1.5 }] })
    await section.put('bare', Object.assign(Object.create(null), { a: 1 }))
    expect(section.get('bare')).toEqual({ a: 1 })
    const packed = log.section<unknown>('m', defineSection<unknown>({ version: 1, codec: msgpack() }))
    const value = {
      at: new Date(5),
      big: 10n,
      bytes: Buffer.from('x'),
      nan: Number.NaN,
      list: [undefined, 1],
    }
    await packed.put('k', value)
    expect(packed.get('k')).toEqual(value)
    log.close()
  })
})

function cycle(): object {
  const one: { self?: object } = {}
  one.self = one
  return one
}

describe('the result of get()', () => {
  it('belongs to the caller: changes of it reach neither others nor the log, until it is put', async () => {
    const { log } = writingLog()
    const objects = log.section<{ n: number; list: number[] }>(
      'j',
      defineSection({ version: 1, codec: json<{ n: number; list: number[] }>() }),
    )
    await objects.put('k', { n: 1, list: [1] })
    const mine = objects.get('k')!
    mine.n = 99
    mine.list.push(2)
    expect(objects.get('k')).toEqual({ n: 1, list: [1] })
    for (const [, value] of objects) value.n = 98
    expect([...objects]).toEqual([['k', { n: 1, list: [1] }]])
    await objects.put('k', mine)
    mine.n = 100
    expect(objects.get('k')).toEqual({ n: 99, list: [1, 2] })
    for (const schema of [undefined, defineSection({ version: 1, codec: bytes() })]) {
      const raw = schema ? log.section('typed', schema) : log.section('raw')
      await raw.put('k', Buffer.from('abc'))
      raw.get('k')![0] = 0x58
      expect(Buffer.from(raw.get('k')!).toString()).toBe('abc')
    }
    log.close()
  })

  it('comes new to each caller where the schema says that it is frozen, and something in it cannot be', async () => {
    const { log } = writingLog()
    const held = async (name: string, made: () => unknown) => {
      const codec = { name: 'made', encode: () => Buffer.from(name), decode: made }
      const section = log.section(name, defineSection({ version: 1, codec, frozen: true }))
      await section.put('k', null)
      const [first, second] = [section.get('k'), section.get('k')]
      return first === second
    }
    const odd = [Buffer.from('a'), new ArrayBuffer(1), new Date(0), new Map(), new Set(), () => {}]
    for (const [n, one] of odd.entries()) {
      expect(await held(`bare ${n}`, () => [one])).toBe(false)
      expect(await held(`among others ${n}`, () => ({ a: { plain: 1 }, odd: [one], b: { plain: 1 } }))).toBe(
        false,
      )
    }
    expect(await held('plain', () => ({ a: [1, 'a', null, undefined, true] }))).toBe(true)
    for (const [n, one] of odd.entries())
      expect(
        await held(`frozen ${n}`, () => Object.freeze([ArrayBuffer.isView(one) ? one : Object.freeze(one)])),
      ).toBe(false)
    log.close()
  })

  it('comes as one frozen object to all where the schema says so, and as a copy of values that cannot be frozen', async () => {
    const { log } = writingLog()
    const frozen = log.section<{ list: { n: number }[] }>(
      'f',
      defineSection({ version: 1, codec: json<{ list: { n: number }[] }>(), frozen: true }),
    )
    await frozen.put('k', { list: [{ n: 1 }] })
    const value = frozen.get('k')!
    expect(frozen.get('k')).toBe(value)
    expect(() => {
      value.list[0]!.n = 2
    }).toThrow(TypeError)
    expect(() => value.list.push({ n: 2 })).toThrow(TypeError)
    await frozen.put('k', { list: [{ n: 3 }] })
    expect(frozen.get('k')).toEqual({ list: [{ n: 3 }] })
    const codec = { ...json<{ list: { n: number }[] }>(), decode: () => Object.freeze({ list: [{ n: 1 }] }) }
    const outside = log.section('o', defineSection({ version: 1, codec, frozen: true }))
    await outside.put('k', { list: [] })
    expect(() => outside.get('k')!.list.push({ n: 2 })).toThrow(TypeError)
    const mixed = log.section<{ at: Uint8Array }>(
      'm',
      defineSection({ version: 1, codec: msgpack<{ at: Uint8Array }>(), frozen: true }),
    )
    await mixed.put('k', { at: Buffer.from('abc') })
    mixed.get('k')!.at[0] = 0
    expect(Buffer.from(mixed.get('k')!.at).toString()).toBe('abc')
    log.close()
  })
})

describe('an entry that cannot be decoded', () => {
  it('ends an iteration, unless the program skips it: then it is left out, and told of once, or to who asks', async () => {
    const { log } = writingLog()
    const raw = log.section('s')
    await raw.bulk(
      Array.from({ length: 20 }, (_, i) => ({
        key: `k${i}`,
        value: Buffer.from(i % 5 === 3 ? '{' : `${i}`),
      })),
    )
    const warnings: string[] = []
    const logger = { warn: (facts: object) => warnings.push((facts as { key: string }).key) }
    const reader = await readBy(log, { logger })
    const section = reader.section('s', defineSection<number>({ version: 1, codec: json() }))
    const sound = Array.from({ length: 20 }, (_, i) => i).filter(i => i % 5 !== 3)
    const numeric = (values: number[]) => values.sort((a, b) => a - b)
    const unreadable = { code: 'ERR_FDB_STATE_VALUE' }
    expect(() => [...section]).toThrow(expect.objectContaining(unreadable))
    const all = async () => {
      for await (const entry of section) void entry
    }
    await expect(all()).rejects.toMatchObject(unreadable)
    expect(warnings).toEqual([])
    reader.skipInvalid = true
    expect(numeric([...section].map(([, value]) => value))).toEqual(sound)
    const slowly: number[] = []
    for await (const [, value] of section) slowly.push(value)
    expect(numeric(slowly)).toEqual(sound)
    expect(warnings.sort()).toEqual(['k13', 'k18', 'k3', 'k8'])
    const told: string[] = []
    expect([...section.entries({ invalid: (key, { code }) => told.push(`${key} ${code}`) })].length).toBe(16)
    expect(told.sort()[0]).toBe('k13 ERR_FDB_STATE_VALUE')
    expect(told.length).toBe(4)
    const stop = (_: string, error: FdbError) => {
      throw error
    }
    expect(() => [...section.entries({ invalid: stop })]).toThrow(
      expect.objectContaining({ code: 'ERR_FDB_STATE_VALUE' }),
    )
    expect(() => section.get('k3')).toThrow(expect.objectContaining({ code: 'ERR_FDB_STATE_VALUE' }))
    expect([...section.keys()].length).toBe(20)
    reader.close()
    log.close()
  })
})
