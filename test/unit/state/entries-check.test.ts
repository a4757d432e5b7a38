import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as pathOf } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type BulkChange, join, type Member } from '../../../src/index.js'
import { bytes, defineSection, json, Segment, type StateLog } from '../../fixtures/state.js'
import { readBy, writingLog } from '../../fixtures/state-logs.js'
import { untyped } from '../../fixtures/untyped.js'
import { until } from '../../processes/until.js'

interface Old {
  to: string
}
interface New {
  target: string
}

const oldSchema = defineSection({ version: 1, codec: json<Old>() })
let migrations = 0
const newSchema = defineSection({
  version: 2,
  codec: json<New>(),
  validate: ({ target }) => {
    if (typeof target !== 'string') throw new Error('no target')
  },
  migrate: value => {
    migrations++
    return { target: untyped<Old>(value).to }
  },
})
const brokenSchema = defineSection({
  version: 2,
  codec: json<New>(),
  migrate: () => {
    throw new Error('a bug')
  },
})

async function startMember(): Promise<() => Promise<Member>> {
  const folder = mkdtempSync(pathOf(tmpdir(), 'fdb-entries-'))
  const members: Member[] = []
  onTestFinished(async () => {
    for (const member of members) await member.close({ timeout: 10, handBack: false })
    rmSync(folder, { recursive: true, force: true })
  })
  return async () => {
    const member = await join({
      service: 'shop',
      control: pathOf(folder, 'upgrade.sock'),
      upgrade: { probation: 0 },
      exitWhenRetired: false,
    })
    members.push(member)
    return member
  }
}

describe('ready()', () => {
  it('refuses a version that cannot decode entries of the state, and the previous one keeps serving', async () => {
    const start = await startMember()
    const first = await start()
    const routes = first.section('routes', oldSchema)
    await first.ready()
    for (const key of ['a', 'b', 'c']) await routes.put(key, { to: key })
    const second = await start()
    second.section('routes', brokenSchema)
    await expect(second.ready()).rejects.toMatchObject({
      code: 'ERR_FDB_STATE_VALUE',
      details: { section: 'routes', invalid: 3, entries: 3 },
    })
    await routes.put('d', { to: 'd' })
    const third = await start()
    const section = third.section('routes', brokenSchema)
    await third.ready({ skipInvalid: true })
    expect([...section]).toEqual([])
    expect(section.size).toBe(4)
  })

  it('starts one migration of all entries, when the handoff cannot be undone', async () => {
    const start = await startMember()
    const first = await start()
    const routes = first.section('routes', oldSchema)
    await first.ready()
    await routes.bulk(Array.from({ length: 500 }, (_, i) => ({ key: `k${i}`, value: { to: `${i}` } })))
    const second = await start()
    const section = second.section('routes', newSchema)
    await second.ready()
    const migratedAll = () => {
      migrations = 0
      return [...section].length === 500 && migrations === 0
    }
    await until('all entries are migrated', migratedAll)
    expect(section.get('k7')).toEqual({ target: '7' })
  })

  it('refuses a first version whose listener has no server', async () => {
    const start = await startMember()
    const lonely = await start()
    await lonely.listen('web', 'tcp://127.0.0.1:0')
    await expect(lonely.ready()).rejects.toMatchObject({
      code: 'ERR_FDB_UNSERVED',
      details: { listener: 'web' },
    })
    const intended = await start()
    await intended.listen('web', 'tcp://127.0.0.1:0')
    await intended.ready({ unserved: ['web'] })
  })
})

describe('a change that a listener gets', () => {
  const schema = defineSection({ version: 1, codec: json<number>() })

  /** Copies each change of one section to another by bulk(). */
  function mirrored(log: StateLog) {
    const [from, to] = [log.section('from', schema), log.section('to', schema)]
    const seen: [string, string, number | undefined, number | undefined][] = []
    from.onChange(change => {
      seen.push([change.op, change.key, change.value, change.previous])
      to.bulk([change]).catch(() => {})
    })
    return { from, to, seen }
  }

  it('has the new value, and is a change that bulk() takes', async () => {
    const { log } = writingLog()
    const { from, to, seen } = mirrored(log)
    await from.put('a', 1)
    await from.put('a', 2)
    await from.bulk([
      { key: 'b', value: 3 },
      { op: 'put', key: 'c', value: 4 },
      { key: 'a', delete: true },
    ])
    await from.bulk([{ op: 'delete', key: 'b' }])
    expect(seen).toEqual([
      ['put', 'a', 1, undefined],
      ['put', 'a', 2, 1],
      ['put', 'b', 3, undefined],
      ['put', 'c', 4, undefined],
      ['delete', 'a', undefined, 2],
      ['delete', 'b', undefined, 3],
    ])
    await to.settled()
    expect([...to]).toEqual([['c', 4]])
    await from.bulk([{ op: 'clear' }, { key: 'd', value: 5 }])
    await to.settled()
    await until('the mirror follows', () => to.get('d') === 5)
    expect([...to]).toEqual([['d', 5]])
    log.close()
  })

  it('has the new value also after a large bulk, and in a process that reads the log', async () => {
    const { log } = writingLog()
    const { from, to } = mirrored(log)
    const reader = await readBy(log)
    const read = mirrored(reader)
    const changes: BulkChange<number>[] = Array.from({ length: 3000 }, (_, i) => ({ key: `k${i}`, value: i }))
    await from.put('k5', -1)
    await from.bulk(changes)
    await until('the mirror is complete', () => to.size === 3000)
    expect(to.get('k5')).toBe(5)
    await reader.catchUp()
    expect(read.seen.filter(([op, , value]) => op === 'put' && value === 5)).toEqual([['put', 'k5', 5, -1]])
    reader.close()
    log.close()
  })

  it('refuses a change of a bulk of an unknown kind', async () => {
    const { log } = writingLog()
    const change = untyped<{ op: 'clear' }>({ op: 'add', key: 'a', value: 1 })
    await expect(log.section('from', schema).bulk([change])).rejects.toMatchObject({
      code: 'ERR_FDB_STATE_VALUE',
    })
    log.close()
  })
})

describe('entries of a section with another schema', () => {
  it('cause a decoding only if they can be wrong: those of this version cannot', async () => {
    const { log } = writingLog()
    await log.section('s', oldSchema).put('a', { to: 'x' })
    for (const segment of log.segments) segment.seal()
    const next = await readBy(log)
    next.startWriting(Segment.create(2))
    let decoded = 0
    const decode = (value: Uint8Array) => {
      decoded++
      return value
    }
    const codec = { ...bytes(), name: 'json', decode }
    next.section('s', defineSection({ version: 1, codec }))
    await next.checkEntries()
    expect(decoded).toBe(0)
    next.close()
    log.close()
  })

  it('cost a read each, and none if all entries have this version', async () => {
    const { log } = writingLog()
    const before = log.section('s', oldSchema)
    await before.bulk(Array.from({ length: 100 }, (_, i) => ({ key: `k${i}`, value: { to: `${i}` } })))
    await before.put('ä', { to: 'x' })
    const same = await readBy(log)
    expect([...same.section('s', oldSchema).invalidEntries_()]).toEqual([])
    const next = await readBy(log)
    const others = next.section('s', defineSection({ ...oldSchema, version: 2, migrate: value => value }))
    expect([...others.invalidEntries_()].length).toBeGreaterThan(100)
    expect([...others.outdatedKeys_()].filter(key => key !== null)).toHaveLength(101)
    for (const each of [next, same, log]) each.close()
  })

  it('cost no read after each was put again, and the log compacted', async () => {
    const { log } = writingLog()
    const before = log.section('s', oldSchema)
    await before.bulk(Array.from({ length: 100 }, (_, i) => ({ key: `k${i}`, value: { to: `${i}` } })))
    for (const segment of log.segments) segment.seal()
    const next = await readBy(log)
    next.startWriting(Segment.create(2))
    const schema = defineSection({ ...oldSchema, version: 2, migrate: value => value })
    const section = next.section('s', schema)
    await next.writeMigrated(() => true)
    expect([...section.outdatedKeys_()].filter(key => key !== null)).toEqual([])
    for (const segment of next.segments) if (!segment.sealed) segment.seal()
    const third = await readBy(next)
    await third.compact()
    const fourth = await readBy(third)
    const entries = fourth.section('s', schema)
    expect(entries.size).toBe(100)
    expect([...entries.invalidEntries_()]).toEqual([])
    for (const each of [fourth, third, next, log]) each.close()
  })
})
