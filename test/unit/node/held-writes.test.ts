import { Writable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { HeldWrites, isHeld } from '../../../src/node/held-writes.js'

/** A connection that sends at once. */
function sending(): { socket: Writable; sent: string[] } {
  const sent: string[] = []
  const write = (chunk: Buffer, _encoding: string, done: () => void) => {
    sent.push(String(chunk))
    done()
  }
  return { socket: new Writable({ write }), sent }
}

describe('the writes of a connection that is to leave', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  it('wait until its earlier bytes are sent', () => {
    let isSent = false
    const held = new HeldWrites<Writable>(() => isSent)
    const { socket, sent } = sending()
    const ready = vi.fn(() => held.forget(socket))
    held.hold(socket, ready)
    socket.write('later')
    vi.advanceTimersByTime(20)
    expect(ready).not.toHaveBeenCalled()
    isSent = true
    vi.advanceTimersByTime(5)
    expect(ready).toHaveBeenCalledTimes(1)
    vi.advanceTimersByTime(500)
    expect(ready).toHaveBeenCalledTimes(1)
    expect(sent).toEqual([])
    expect(vi.getTimerCount()).toBe(0)
  })

  it('go on 100 ms after those are sent, and are not held again for 100 ms', () => {
    const held = new HeldWrites<Writable>(() => true)
    const { socket, sent } = sending()
    held.hold(socket, () => {})
    socket.write('a')
    vi.advanceTimersByTime(100)
    expect(sent).toEqual([])
    vi.advanceTimersByTime(10)
    expect(sent).toEqual(['a'])
    held.hold(socket, () => {})
    socket.write('b')
    expect(sent).toEqual(['a', 'b'])
    vi.advanceTimersByTime(100)
    held.hold(socket, () => {})
    socket.write('c')
    expect(sent).toEqual(['a', 'b'])
    held.releaseAll()
    expect(sent).toEqual(['a', 'b', 'c'])
    expect(vi.getTimerCount()).toBe(0)
  })

  it('wait for a slow client, as long as its connection is to leave', () => {
    let isSent = false
    const held = new HeldWrites<Writable>(() => isSent)
    const { socket, sent } = sending()
    const ready = vi.fn()
    for (let pass = 0; pass < 20; pass++) {
      held.hold(socket, ready)
      socket.write('a')
      vi.advanceTimersByTime(250)
      expect(sent).toEqual([])
    }
    isSent = true
    vi.advanceTimersByTime(5)
    expect(ready).toHaveBeenCalled()
    vi.advanceTimersByTime(110)
    expect(sent).toEqual(Array(20).fill('a'))
    isSent = false
    vi.advanceTimersByTime(100)
    held.hold(socket, ready)
    socket.write('b')
    // The connection is not to leave any more.
    vi.advanceTimersByTime(590)
    expect(sent).not.toContain('b')
    vi.advanceTimersByTime(20)
    expect(sent).toContain('b')
    expect(vi.getTimerCount()).toBe(0)
  })

  it('count as held in another copy of the library', async () => {
    vi.resetModules()
    const copy = await import('../../../src/node/held-writes.js')
    expect(copy.isHeld).not.toBe(isHeld)
    const { socket } = sending()
    const letGo = copy.holdWrites(socket)
    expect(isHeld(socket)).toBe(true)
    letGo()
    expect(isHeld(socket)).toBe(false)
  })
})
