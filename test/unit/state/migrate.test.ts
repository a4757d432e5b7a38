import { describe, expect, it } from 'vitest'
import { messageType } from '../../fixtures/message-type.js'
import { defineSection, json, protobuf, Segment, type StateLog } from '../../fixtures/state.js'
import { readBy, writingLog } from '../../fixtures/state-logs.js'
import { untyped } from '../../fixtures/untyped.js'

/** The log as the next version gets it: sealed, read, and writing to its own segment. The old one is closed. */
async function nextVersion(log: StateLog): Promise<StateLog> {
  let epoch = 0
  for (const segment of log.segments) {
    if (!segment.sealed) segment.seal()
    epoch = segment.epoch
  }
  const next = await readBy(log)
  expect(next.position).toEqual(log.position)
  log.close()
  next.startWriting(Segment.create(epoch + 1))
  return next
}

interface OldRoute {
  to: string
}
interface NewRoute extends OldRoute {
  weight: number
}

const oldSchema = defineSection({
  version: 1,
  codec: protobuf(messageType<OldRoute>('Route', 'string to = 1;')),
})
const calls: number[][] = []
const newSchema = defineSection({
  version: 2,
  codec: protobuf(messageType<NewRoute>('Route', 'string to = 1; uint32 weight = 2;')),
  migrate: (route, from, to) => {
    calls.push([from, to])
    if (route.weight === 0) route.weight = 100
    return route
  },
})

describe('migrate', () => {
  it('brings old entries forward when they are read, and leaves the log as it is', async () => {
    const { log } = writingLog()
    const before = log.section('routes', oldSchema)
    await before.bulk(['a', 'b', 'c'].map(key => ({ key, value: { to: key } })))
    const { digest } = log.position
    const next = await nextVersion(log)
    calls.length = 0
    const section = next.section('routes', newSchema)
    expect(section.size).toBe(3)
    expect(calls).toEqual([])
    expect(section.get('a')).toMatchObject({ to: 'a', weight: 100 })
    expect(calls).toEqual([[1, 2]])
    expect([...section].map(([key, { weight }]) => [key, weight]).sort()).toEqual([
      ['a', 100],
      ['b', 100],
      ['c', 100],
    ])
    for await (const [, { weight }] of section) expect(weight).toBe(100)
    expect(next.position.digest).toBe(digest)
    next.close()
  })

  it('writes an entry forward when it is put again: it is not migrated any more', async () => {
    const { log } = writingLog()
    await log.section('routes', oldSchema).put('a', { to: 'a' })
    const second = await nextVersion(log)
    const section = second.section('routes', newSchema)
    const route = section.get('a')!
    route.weight = 7
    await section.put('a', route)
    const third = await nextVersion(second)
    calls.length = 0
    expect(third.section('routes', newSchema).get('a')).toMatchObject({ to: 'a', weight: 7 })
    expect(calls).toEqual([])
    third.close()
  })

  it('finds unknown fields and sections intact after up, down and up again', async () => {
    const { log } = writingLog()
    const first = log.section('routes', oldSchema)
    await first.put('untouched', { to: 'x' })
    await first.put('changed', { to: 'y' })

    const up = await nextVersion(log)
    const upSection = up.section('routes', newSchema)
    const route = upSection.get('changed')!
    route.weight = 5
    await upSection.put('changed', route)
    await up.section('extras', defineSection({ version: 3, codec: json() })).put('k', { only: 'new' })
    const extras = up.digests().find(({ name }) => name === 'extras')

    const down = await nextVersion(up)
    const downSection = down.section('routes', oldSchema)
    const seen = downSection.get('changed')!
    seen.to = 'z'
    await downSection.put('changed', seen)
    expect(down.digests().find(({ name }) => name === 'extras')).toEqual(extras)

    const again = await nextVersion(down)
    calls.length = 0
    const section = again.section('routes', newSchema)
    expect(section.get('changed')).toMatchObject({ to: 'z', weight: 5 })
    expect(section.get('untouched')).toMatchObject({ to: 'x', weight: 100 })
    // The older version wrote it last.
    expect(calls).toEqual([
      [1, 2],
      [1, 2],
    ])
    expect(again.digests().find(({ name }) => name === 'extras')).toEqual(extras)
    expect(again.section('extras', defineSection({ version: 3, codec: json() })).get('k')).toEqual({
      only: 'new',
    })
    again.close()
  })

  it('does not touch values of a newer schema, or of none', async () => {
    const { log } = writingLog()
    const bare = log.section('numbers')
    await bare.put('bare', Buffer.from('1'))
    const second = await nextVersion(log)
    await second.section('numbers', defineSection({ version: 3, codec: json<number>() })).put('newer', 2)
    const third = await nextVersion(second)
    const migrate = () => {
      throw new Error('not to be called')
    }
    const section = third.section('numbers', defineSection({ version: 2, codec: json<number>(), migrate }))
    expect([section.get('bare'), section.get('newer')]).toEqual([1, 2])
    third.close()
  })

  it('says which entry, from and to which version, when it cannot be done', async () => {
    const { log } = writingLog()
    await log.section('numbers', defineSection({ version: 1, codec: json<number>() })).put('a', 1)
    const next = await nextVersion(log)
    const cause = new Error('no such unit')
    let fault: () => number = () => {
      throw cause
    }
    const migrate = () => fault()
    const section = next.section('numbers', defineSection({ version: 4, codec: json<number>(), migrate }))
    expect(() => section.get('a')).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_STATE_VALUE',
        message:
          'section "numbers", key "a": migrate() from schema version 1 to 4 threw (no such unit); correct it, put a value of version 4, ' +
          'or delete the key',
        cause,
      }),
    )
    fault = () => {
      throw untyped(null)
    }
    expect(() => section.get('a')).toThrow(/ threw \(null\); correct it/)
    fault = () => untyped(undefined)
    expect(() => section.get('a')).toThrow(/returned undefined instead of the value/)
    next.close()
  })

  it('must be a function', () => {
    expect(() =>
      defineSection({ version: 1, codec: json(), migrate: untyped<() => unknown>('yes') }),
    ).toThrow('migrate is string; give a function (value, from, to) => value')
  })

  it('stays uncalled for a section that this version may not read: that is an error', async () => {
    const { log } = writingLog()
    await log.section('routes', defineSection({ version: 5, minReader: 4, codec: json() })).put('a', 1)
    const next = await nextVersion(log)
    expect(() => next.section('routes', defineSection({ version: 3, codec: json() }))).toThrow(
      'section "routes" was written with schema version 5, which needs a reader of version 4 or newer; this process has ' +
        'version 3. Run a release that has version 4 or newer: older releases cannot read this section any more',
    )
    next.close()
  })
})
