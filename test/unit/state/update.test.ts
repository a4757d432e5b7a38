import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { bytes, defineSection, json, REMOVE, Segment } from '../../fixtures/state.js'
import { readBy, routeSchema, writingLog } from '../../fixtures/state-logs.js'
import { untyped } from '../../fixtures/untyped.js'

const counterSchema = defineSection<number>({ version: 1, codec: json() })
const next = (n = 0) => n + 1
const code = (expected: string) => expect.objectContaining({ code: expected })

describe('update()', () => {
  it('changes an entry by what it is, and resolves with what it is then', async () => {
    const { log } = writingLog()
    const counts = log.section('counts', counterSchema)
    expect(await counts.update('n', next)).toBe(1)
    expect(await counts.update('n', next)).toBe(2)
    expect([counts.get('n'), log.sequence]).toEqual([2, 2])
    log.close()
  })

  it('counts every one of those that are made in one turn, with other changes between them', async () => {
    const { log } = writingLog()
    const counts = log.section('counts', counterSchema)
    const made = [
      counts.update('n', next),
      counts.update('n', next),
      counts.put('n', 40),
      counts.update('n', next),
      counts.update('n', next),
    ]
    expect(counts.get('n')).toBe(42)
    expect(await Promise.all(made)).toEqual([1, 2, undefined, 41, 42])
    log.close()
  })

  it('calls its function when it is appended: while it waits for a handoff, and beside a large bulk', async () => {
    const { log } = writingLog()
    const counts = log.section('counts', counterSchema)
    await counts.put('n', 10)
    log.pauseWriting()
    const waiting = Array.from({ length: 5 }, () => counts.update('n', next))
    await nextTurn()
    expect(counts.get('n')).toBe(10)
    log.resumeWriting()
    expect(await Promise.all(waiting)).toEqual([11, 12, 13, 14, 15])

    let made = 0
    let done = false
    const bulk = log
      .section('many', counterSchema)
      .bulk(Array.from({ length: 50_000 }, (_, i) => ({ key: `k${i}`, value: i })))
      .finally(() => {
        done = true
      })
    const updates: Promise<unknown>[] = []
    while (!done) {
      updates.push(counts.update('n', next))
      made++
      await nextTurn()
    }
    await Promise.all([bulk, ...updates])
    expect(made).toBeGreaterThan(10)
    expect(counts.get('n')).toBe(15 + made)
    log.close()
  })

  it('waits where the state is not here yet, and takes what the one before had written last', async () => {
    const { log } = writingLog()
    await log.section('counts', counterSchema).put('n', 1)
    const successor = await readBy(log)
    const counts = successor.section('counts', counterSchema)
    const waits = counts.update('n', next)
    await log.section('counts', counterSchema).put('n', 7)
    log.segments[0]!.seal()
    await successor.catchUp()
    successor.startWriting(Segment.create(2))
    expect(await waits).toBe(8)
    successor.close()
    log.close()
  })

  it('leaves an entry as it is, or deletes it', async () => {
    const { log } = writingLog()
    const counts = log.section('counts', counterSchema)
    await counts.put('n', 5)
    const below = (most: number) => counts.update('n', (n = 0) => (n < most ? n + 1 : undefined))
    expect([await below(5), log.sequence]).toEqual([5, 1])
    expect([await below(6), log.sequence]).toEqual([6, 2])
    expect(await counts.update('n', () => REMOVE)).toBeUndefined()
    expect([counts.has('n'), log.sequence]).toEqual([false, 3])
    expect([await counts.update('n', () => REMOVE), log.sequence]).toEqual([undefined, 3])
    log.close()
  })

  it('gives the function a value of its own: what it does to it counts only when it returns it', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('a', { to: 'x', weight: 1 })
    routes.get('a')
    await routes.update('a', route => {
      route!.weight = 2
      return undefined
    })
    expect(routes.get('a')).toEqual({ to: 'x', weight: 1 })
    await expect(
      routes.update('a', route => {
        route!.weight = 3
        throw new Error('no')
      }),
    ).rejects.toThrow('no')
    expect(routes.get('a')).toEqual({ to: 'x', weight: 1 })
    await routes.update('a', route => {
      route!.weight = 4
      return route
    })
    expect(routes.get('a')).toEqual({ to: 'x', weight: 4 })
    log.close()
  })

  it('rejects with what the function throws, and others go on', async () => {
    const { log } = writingLog()
    const counts = log.section('counts', counterSchema)
    const failing = counts.update('n', () => {
      throw new Error('bad luck')
    })
    const other = counts.update('n', next)
    await expect(failing).rejects.toThrow('bad luck')
    expect([await other, log.sequence]).toEqual([1, 1])
    log.close()
  })

  it('refuses a function that waits, and a key that is none', async () => {
    const { log } = writingLog()
    const counts = log.section('counts', counterSchema)
    const waiting = untyped<() => number>(async () => 1)
    await expect(counts.update('n', waiting)).rejects.toThrow(code('ERR_FDB_OPTION'))
    await expect(log.update(async () => 1)).rejects.toThrow(code('ERR_FDB_OPTION'))
    await expect(counts.update('k'.repeat(100_000), next)).rejects.toThrow(code('ERR_FDB_STATE_LIMIT'))
    expect(log.sequence).toBe(0)
    log.close()
  })

  it('applies once with a request id, and tells the retry what the entry is', async () => {
    const { log } = writingLog()
    const counts = log.section('counts', counterSchema)
    const once = () => counts.update('n', next, { request: 'order-1' })
    expect(await Promise.all([once(), once()])).toEqual([1, 1])
    await counts.update('n', next)
    expect([await once(), log.sequence]).toEqual([2, 2])
    log.close()
  })

  it('belongs to its request id as any change does', async () => {
    const { log } = writingLog()
    const counts = log.section('counts', counterSchema)
    const [update, remove] = [{ request: 'update' }, { request: 'remove' }]
    await counts.update('n', next, update)
    await counts.update('n', () => REMOVE, remove)
    expect([await counts.update('n', next, update), await counts.update('n', next, remove)]).toEqual([
      undefined,
      undefined,
    ])
    for (const request of [update, remove])
      await expect(counts.update('m', next, request)).rejects.toThrow(code('ERR_FDB_STATE_REQUEST'))
    await expect(counts.clear(update)).rejects.toThrow(code('ERR_FDB_STATE_REQUEST'))
    expect([counts.size, log.sequence]).toEqual([0, 2])
    log.close()
  })

  it('starts again in the next segment when this one was sealed under it', async () => {
    const { log } = writingLog()
    const counts = log.section('counts', counterSchema)
    await counts.put('n', 1)
    log.segments[0]!.seal()
    const waits = counts.update('n', next)
    await nextTurn()
    log.startWriting(Segment.create(2))
    expect([await waits, log.sequence]).toEqual([2, 2])
    log.close()
  })
})

describe('update() of several sections', () => {
  it('makes one change, and sees its own work', async () => {
    const { log } = writingLog()
    const stock = log.section('stock', counterSchema)
    const orders = log.section('orders', routeSchema)
    await stock.put('apple', 1)
    const order = (id: string) =>
      log.update(state => {
        const left = state.get(stock, 'apple') ?? 0
        if (left === 0) return 'sold out'
        state.put(stock, 'apple', left - 1)
        state.put(orders, id, { to: 'me' })
        return `${state.get(stock, 'apple')} left, ${state.has(orders, id)}`
      })
    expect(await Promise.all([order('o1'), order('o2')])).toEqual(['0 left, true', 'sold out'])
    expect([stock.get('apple'), [...orders.keys()], log.sequence]).toEqual([0, ['o1'], 2])
    const reader = await readBy(log)
    expect([reader.position, reader.schemas().map(({ name }) => name)]).toEqual([
      log.position,
      ['orders', 'stock'],
    ])
    reader.close()
    log.close()
  })

  it('deletes, and counts for nothing when the function throws or comes to nothing', async () => {
    const { log } = writingLog()
    const stock = log.section('stock', counterSchema)
    await stock.put('apple', 1)
    await expect(
      log.update(state => {
        state.put(stock, 'pear', 1)
        throw new Error('no')
      }),
    ).rejects.toThrow('no')
    await log.update(state => {
      state.put(stock, 'pear', 1)
      expect([state.delete(stock, 'pear'), state.delete(stock, 'pear')]).toEqual([true, false])
    })
    expect([stock.size, log.sequence]).toEqual([1, 1])
    await log.update(state =>
      expect([state.delete(stock, 'apple'), state.has(stock, 'apple')]).toEqual([true, false]),
    )
    expect([stock.size, log.sequence]).toEqual([0, 2])
    log.close()
  })

  it('ends when its function has returned, and belongs to one log', async () => {
    const { log } = writingLog()
    const { log: other } = writingLog()
    const stock = log.section('stock', counterSchema)
    let kept!: Parameters<Parameters<typeof log.update>[0]>[0]
    await log.update(state => {
      kept = state
    })
    expect(() => kept.put(stock, 'apple', 1)).toThrow(code('ERR_FDB_OPTION'))
    await expect(other.update(state => state.put(stock, 'apple', 1))).rejects.toThrow(code('ERR_FDB_OPTION'))
    other.close()
    log.close()
  })
})

describe('the previous value in a change', () => {
  it('delete() resolves with whether there was an entry', async () => {
    const { log } = writingLog()
    const counts = log.section('counts', counterSchema)
    expect(await Promise.all([counts.put('a', 1), counts.delete('a'), counts.delete('a')])).toEqual([
      undefined,
      true,
      false,
    ])
    log.pauseWriting()
    const waits = [counts.put('b', 1), counts.delete('b')]
    log.resumeWriting()
    expect(await Promise.all(waits)).toEqual([undefined, true])
    log.close()
  })

  it('onChange() tells the value before, of changes made here and read from another', async () => {
    const { log } = writingLog()
    const reader = await readBy(log)
    const told: unknown[] = []
    const tell = (source: typeof log) =>
      source
        .section('counts', counterSchema)
        .onChange(({ op, key, origin, previous }) => told.push([op, key, origin, previous]))
    tell(log)
    const counts = log.section('counts', counterSchema)
    await counts.put('a', 1)
    await counts.put('a', 2)
    await counts.delete('a')
    await counts.delete('a')
    await counts.put('b', 1)
    await counts.clear()
    const local = [
      ['put', 'a', 'local', undefined],
      ['put', 'a', 'local', 1],
      ['delete', 'a', 'local', 2],
      ['put', 'b', 'local', undefined],
      ['clear', '', 'local', undefined],
    ]
    expect(told).toEqual(local)
    told.length = 0
    tell(reader)
    await reader.catchUp()
    expect(told).toEqual(local.map(([op, key, , previous]) => [op, key, 'replay', previous]))
    reader.close()
    log.close()
  })

  it('onChange() tells it of a large bulk too', async () => {
    const { log } = writingLog()
    const counts = log.section('counts', counterSchema)
    const keys = Array.from({ length: 5000 }, (_, i) => `k${i}`)
    await counts.bulk(keys.map((key, value) => ({ key, value })))
    const before = new Map<string, unknown>()
    counts.onChange(({ key, previous }) => before.set(key, previous))
    await counts.bulk([...keys.map(key => ({ key, value: -1 })), { key: 'new', value: 1 }])
    expect(before.size).toBe(5001)
    expect(keys.every((key, i) => before.get(key) === i)).toBe(true)
    expect(before.get('new')).toBeUndefined()
    log.close()
  })

  it('previous is to be read before the listener returns', async () => {
    const { log } = writingLog()
    const blobs = log.section('blobs', defineSection({ version: 1, codec: bytes() }))
    const kept: { readonly previous: Uint8Array | undefined }[] = []
    blobs.onChange(change => kept.push(change))
    await blobs.put('a', Buffer.from('x'))
    await blobs.put('a', Buffer.from('y'))
    expect(kept[0]!.previous).toBeUndefined()
    expect(() => kept[1]!.previous).toThrow(code('ERR_FDB_STATE_MOVED'))
    log.close()
  })
})
