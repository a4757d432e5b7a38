import type { Server } from 'node:tls'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { Member } from '../../../src/index.js'
import { TicketKeys, ticketKeysSection } from '../../../src/tls/ticket-keys.js'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

interface Keys {
  keys: Uint8Array
  previous: Uint8Array
  created: number
}

/** A member that serves, with a section in memory. */
function member() {
  const stored = new Map<string, Keys>()
  let told: (change: { key: string; op: string }) => void = () => {}
  let puts = 0
  const section = {
    get: (name: string) => stored.get(name),
    put: async (name: string, keys: Keys) => {
      puts++
      stored.set(name, keys)
      await Promise.resolve()
      told({ key: name, op: 'put' })
    },
    update: async (name: string, change: (keys?: Keys) => Keys) =>
      await section.put(name, change(stored.get(name))),
    onChange: (listener: typeof told) => {
      told = listener
      return () => {
        told = () => {}
      }
    },
  }
  const process = { phase: 'serving', follows: null as object | null, generation: 1 }
  const is = Object.assign(process, { section: () => section, once() {}, off() {} })
  return {
    is: is as unknown as Member,
    process,
    stored,
    puts: () => puts,
    change: (key: string, keys: Keys) => {
      stored.set(key, keys)
      told({ key, op: 'put' })
    },
  }
}

const HOUR = 3_600_000
const settle = () => vi.advanceTimersByTimeAsync(1)

describe('ticket keys', () => {
  it('change at their set age, and open tickets that the keys before have sealed', async () => {
    const { is } = member()
    const keys = new TicketKeys(is, { rotateEvery: HOUR })
    await settle()
    const before = keys.current
    await vi.advanceTimersByTimeAsync(HOUR + 10)
    expect(keys.current.equals(before)).toBe(false)
    expect(keys.previous?.equals(before)).toBe(true)
    keys.stop()
  })

  it('come from no process that does not serve, nor from one that follows; it looks again, as another may have ended', async () => {
    for (const [phase, follows] of [
      ['standby', null],
      ['serving', {}],
    ] as const) {
      const { is, process, puts } = member()
      const keys = new TicketKeys(is, { rotateEvery: HOUR })
      await settle()
      const before = puts()
      Object.assign(process, { phase, follows })
      await vi.advanceTimersByTimeAsync(HOUR + 10)
      expect(puts()).toBe(before)
      Object.assign(process, { phase: 'serving', follows: null })
      await vi.advanceTimersByTimeAsync(20_000)
      expect(puts()).toBe(before + 1)
      keys.stop()
    }
  })

  it('open tickets of the keys in the state, also if this process has not heard of those', async () => {
    const { is, stored } = member()
    const keys = new TicketKeys(is)
    await settle()
    const others = { ...stored.get('default')!, keys: Buffer.alloc(48, 7) }
    stored.set('default', others)
    await keys.rotate()
    expect(keys.previous).toEqual(others.keys)
    keys.stop()
  })

  it('do not live longer because the clock was set back', async () => {
    const { is, puts } = member()
    const keys = new TicketKeys(is, { rotateEvery: HOUR })
    await settle()
    vi.setSystemTime(Date.now() - 3 * HOUR)
    await keys.rotate()
    vi.setSystemTime(Date.now() - 3 * HOUR)
    const other = new TicketKeys(is, { rotateEvery: HOUR })
    const before = puts()
    await vi.advanceTimersByTimeAsync(10)
    expect(puts()).toBeGreaterThan(before)
    keys.stop()
    other.stop()
  })

  it('change by themselves an age after their last change, whatever that was, and only then', async () => {
    const MINUTE = HOUR / 60
    const { is, change } = member()
    const keys = new TicketKeys(is, { rotateEvery: HOUR })
    await settle()
    let changedAt = Date.now()
    let isByHand = false
    /** After how many minutes, rounded, they have changed by themselves. */
    const ages: number[] = []
    keys.onChange(() => {
      if (!isByHand) ages.push(Math.round((Date.now() - changedAt) / MINUTE))
      changedAt = Date.now()
    })
    /** In the state by another process, which serves too. */
    const another = async () =>
      change('default', { keys: new Uint8Array(48), previous: keys.current, created: Date.now() })
    const rotate = () => keys.rotate()
    const steps = [
      [20, rotate],
      [59, another],
      [30, rotate],
      [1, rotate],
      [200, another],
      [45, another],
    ] as const
    for (const [minutes, act] of [...steps, [130, another] as const]) {
      await vi.advanceTimersByTimeAsync(minutes * MINUTE)
      isByHand = true
      await act()
      isByHand = false
      expect([minutes, vi.getTimerCount()]).toEqual([minutes, 1])
    }
    expect(ages).toEqual([60, 60, 60, 60, 60])
    keys.stop()
    expect(vi.getTimerCount()).toBe(0)
  })

  it('change an age after they were made, also in a process that began later', async () => {
    const { is, puts, stored } = member()
    const made = Date.now() - (2 * HOUR) / 3
    stored.set('default', { keys: new Uint8Array(48), previous: new Uint8Array(0), created: made })
    const keys = new TicketKeys(is, { rotateEvery: HOUR })
    await vi.advanceTimersByTimeAsync(HOUR / 4)
    expect(puts()).toBe(0)
    await vi.advanceTimersByTimeAsync(HOUR / 6)
    expect(puts()).toBe(1)
    keys.stop()
  })

  it('of another name are no news', async () => {
    const { is, change } = member()
    const keys = new TicketKeys(is, { name: 'one' })
    await settle()
    const heard: unknown[] = []
    keys.onChange(of => heard.push(of))
    change('two', { keys: new Uint8Array(48), previous: new Uint8Array(0), created: Date.now() })
    expect(heard).toEqual([])
    keys.stop()
  })

  it('leave no timer behind', async () => {
    const { is } = member()
    const keys = new TicketKeys(is, {})
    await settle()
    keys.stop()
    expect(vi.getTimerCount()).toBe(0)
  })

  it('stay a secret of the state', () => {
    expect(ticketKeysSection).toMatchObject({ secret: true })
  })
})

describe('a server that opens tickets', () => {
  it('opens those of both keys, has those of the previous sealed anew, and knows no others', async () => {
    let asked!: (name: Buffer, iv: Buffer, sealing: boolean) => [number, ...Buffer[]]
    vi.doMock('../../../src/node/tls-internals.js', () => ({
      setTicketKeyCallback: (_server: Server, answer: typeof asked) => {
        asked = answer
      },
    }))
    const { useTicketKeys } = await import('../../../src/tls/ticket-server.js')
    const [current, previous] = [Buffer.alloc(48, 1), Buffer.alloc(48, 2)]
    useTicketKeys({ setTicketKeys() {} } as unknown as Server, { current, previous })
    const open = (name: number) => asked(Buffer.alloc(16, name), Buffer.alloc(0), false)
    expect(open(1)).toEqual([1, Buffer.alloc(16, 1), Buffer.alloc(16, 1)])
    expect(open(2)).toEqual([2, Buffer.alloc(16, 2), Buffer.alloc(16, 2)])
    expect(open(3)[0]).toBe(0)
    vi.doUnmock('../../../src/node/tls-internals.js')
  })
})
