import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { HolderPhase } from '../../../src/handoff/phases.js'
import { Probation } from '../../../src/holder/probation.js'
import { HANDOFF_TIMES } from '../../../src/holder/times.js'
import { peerWith } from '../../holder-support/processes.js'

const BEAT = 100
const PROBATION = 1_000
const TIMES = { ...HANDOFF_TIMES, probation: PROBATION, silence: 500, heartbeat: BEAT }

beforeEach(() => vi.useFakeTimers())
afterEach(() => vi.useRealTimers())

/** A successor in probation, on a clock that the test turns. */
function watched(phase: HolderPhase = 'probation') {
  const peer = peerWith({ id: 2 })
  const heard: string[] = []
  const kept: number[] = []
  let isHeld = false
  const beat = (healthy = true) => {
    peer.heartbeatAt = performance.now()
    peer.healthy = healthy
    if (healthy) peer.healthyAt = peer.heartbeatAt
  }
  const probation = new Probation(
    {
      state: () => ({ phase, owner: 2 }),
      dispatch: event => heard.push(event.type),
      peer: () => peer,
      times: () => TIMES,
      mayEnd: () => !isHeld,
      onKept: ({ id }) => kept.push(id),
    },
    BEAT,
  )
  beat()
  /** Beats as long as `ms` milliseconds take. */
  const live = (ms: number, healthy = true) => {
    for (let at = 0; at < ms; at += BEAT) {
      beat(healthy)
      vi.advanceTimersByTime(BEAT)
    }
  }
  const hold = (on: boolean) => {
    isHeld = on
  }
  return { probation, peer, heard, kept, live, hold }
}

describe('probation', () => {
  it('ends when its time is over and the successor says that it is well', () => {
    const { probation, heard, live } = watched()
    probation.start()
    live(900)
    expect(heard).toEqual([])
    live(200)
    expect(heard[0]).toBe('healthy')
    probation.end()
  })

  it('continues at a heartbeat that is two beats old', () => {
    const { probation, heard, live } = watched()
    probation.start()
    live(800)
    // The successor is silent from here; its last word, that it is well, is no evidence at the end.
    vi.advanceTimersByTime(300)
    expect(heard).toEqual([])
    vi.advanceTimersByTime(400)
    expect(heard).toContain('silent')
    expect(heard).not.toContain('healthy')
    probation.end()
  })

  it('continues at a fresh heartbeat that says that the successor is not well', () => {
    const { probation, heard, live } = watched()
    probation.start()
    live(700)
    live(400, false)
    expect(heard).toEqual([])
    live(300, false)
    expect(heard).toContain('unhealthy')
    expect(heard).not.toContain('healthy')
    probation.end()
  })

  it('does not take heartbeats for fresh that waited while this process was stopped', () => {
    const { probation, heard, live } = watched()
    probation.start()
    live(300)
    // Stopped for longer than the probation; then the heartbeats of before arrive together.
    const [now, start] = [performance.now(), Date.now()]
    vi.spyOn(performance, 'now').mockImplementation(() => now + 15_000 + (Date.now() - start))
    live(BEAT)
    expect(heard).toEqual([])
    live(3 * BEAT)
    expect(heard[0]).toBe('healthy')
    vi.restoreAllMocks()
    probation.end()
  })

  it('does not take its own stall for the silence of the successor', () => {
    const { probation, heard, live } = watched()
    probation.start()
    live(300)
    // The process was stopped: its clock went on, and no timer ran.
    vi.setSystemTime(Date.now())
    const now = performance.now()
    vi.spyOn(performance, 'now').mockImplementation(() => now + 5_000 + (Date.now() - start))
    const start = Date.now()
    vi.advanceTimersByTime(BEAT)
    expect(heard).toEqual([])
    vi.restoreAllMocks()
    probation.end()
  })

  it('does not end while it may not, and then at once', () => {
    const { probation, heard, live, hold } = watched()
    probation.start()
    hold(true)
    live(PROBATION * 2)
    expect(heard).toEqual([])
    hold(false)
    live(BEAT)
    expect(heard[0]).toBe('healthy')
    probation.end()
  })

  it('does not end while the successor carries out a rollback, and the standby takes over when its work has ended', () => {
    const { probation, peer, heard, live } = watched()
    probation.start()
    live(900)
    peer.report = { leaves: 'fd-broker rollback by uid 0' }
    live(PROBATION)
    expect(heard).toEqual([])
    peer.rollsBack = true
    probation.judgeSoon()
    vi.advanceTimersToNextTimer()
    vi.advanceTimersToNextTimer()
    expect(new Set(heard)).toEqual(new Set(['unhealthy']))
    probation.end()
  })

  it('forgets an order to roll back that the successor has taken back while this process was stopped', () => {
    const { probation, peer, heard, live } = watched()
    probation.start()
    live(300)
    peer.rollsBack = true
    probation.judgeSoon()
    // The next heartbeat, which was read in the same turn of the event loop.
    peer.rollsBack = false
    live(2 * BEAT)
    expect(heard).toEqual([])
    probation.end()
  })

  it('hears no order to roll back after its end', () => {
    const { probation, peer, heard, live } = watched()
    probation.start()
    live(PROBATION + BEAT)
    expect(heard).toEqual(['healthy'])
    probation.end()
    peer.rollsBack = true
    probation.judgeSoon()
    live(3 * BEAT)
    expect(heard).toEqual(['healthy'])
  })

  it('reports once that an unhealthy successor keeps serving, however often it is judged', () => {
    const { probation, heard, kept, live } = watched()
    probation.start()
    live(2 * PROBATION, false)
    expect(heard.length).toBeGreaterThan(1)
    expect(kept).toEqual([2])
    probation.end()
  })

  it('leaves no timer behind', () => {
    const { probation } = watched()
    probation.start()
    probation.start()
    probation.judgeSoon()
    probation.end()
    expect(vi.getTimerCount()).toBe(0)
  })
})
