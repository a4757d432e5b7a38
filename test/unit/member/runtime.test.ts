import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { StateSizes, UnservedServices } from '../../../src/daemon/services.js'
import { AppendNotice } from '../../../src/member/hosting/operator-requests.js'
import { checkHealth, Heartbeat } from '../../../src/member/lifecycle/heartbeat.js'
import { Leadership } from '../../../src/member/lifecycle/leadership.js'
import { addPrint, RequestMemory } from '../../../src/state/requests.js'
import { type NewWrite, WriteQueue } from '../../../src/state/write-queue.js'
import { DEFAULT_LIMITS } from '../../fixtures/state.js'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

describe('work that one process does at a time', () => {
  function leadership({ hooked = true } = {}) {
    const story: string[] = []
    let end = () => {}
    let ends = 0
    const work = new Leadership(
      event => story.push(event),
      () => {},
      SILENT,
    )
    const hook = () =>
      new Promise<void>(resolve => {
        ends++
        end = () => resolve()
      })
    if (hooked) work.add(hook)
    const settle = () => vi.advanceTimersByTimeAsync(1)
    return { work, story, end: () => end(), ends: () => ends, settle }
  }

  it('causes one message for each change, and none when nothing has changed', () => {
    const { work, story } = leadership({ hooked: false })
    work.retire()
    expect(story).toEqual([])
    work.acquire()
    work.acquire()
    expect(story).toEqual(['serving'])
    work.retire()
    work.retire()
    expect(story).toEqual(['serving', 'retiring'])
    work.acquire()
    expect(story).toEqual(['serving', 'retiring', 'reinstated'])
  })

  it('ends once when another serves, also where its end was not asked for before', () => {
    const { work, ends } = leadership()
    work.acquire()
    work.retire()
    work.retire()
    expect(ends()).toBe(1)
  })

  it('stays ended without its turn: another serves by the time the work before has ended', async () => {
    const { work, story, end, settle } = leadership()
    work.acquire()
    void work.quiesce()
    work.acquire()
    work.retire()
    end()
    await settle()
    expect(story).toEqual(['serving', 'retiring'])
  })

  it('begins again once it has ended, where the handoff has failed', async () => {
    const { work, story, end, settle } = leadership()
    work.acquire()
    void work.quiesce()
    work.acquire()
    expect(story).toEqual(['serving'])
    end()
    await settle()
    expect(story).toEqual(['serving', 'resumed'])
  })
})

it('work whose stop hangs keeps back no other work of a process that serves again', async () => {
  const story: string[] = []
  const work = new Leadership(
    () => {},
    () => {},
    SILENT,
  )
  const add = (name: string, stops: readonly Promise<void>[]) => {
    const left = [...stops]
    work.add(() => {
      story.push(`${name} starts`)
      return () => left.shift()?.then(() => story.push(`${name} has stopped`))
    })
  }
  let unhang = () => {}
  const hangs = new Promise<void>(resolve => {
    unhang = resolve
  })
  add('one', [hangs])
  add('other', [])
  work.acquire()
  void work.quiesce()
  work.acquire()
  await vi.advanceTimersByTimeAsync(1)
  expect(story.splice(0)).toEqual(['one starts', 'other starts', 'other starts'])
  let over = false
  void work.quiesce()!.then(() => {
    over = true
  })
  await vi.advanceTimersByTimeAsync(1)
  expect(over).toBe(false)
  work.acquire()
  unhang()
  await vi.advanceTimersByTimeAsync(1)
  expect({ over, story }).toEqual({ over: true, story: ['other starts', 'one has stopped', 'one starts'] })
})

describe('the notice that something was appended', () => {
  it('comes at once, then at most every 10 ms, and not when nobody wants it any more', () => {
    const appended = new Set<() => void>()
    let told = 0
    const notice = new AppendNotice(appended, () => {
      told++
    })
    notice.want(true)
    vi.advanceTimersByTime(1)
    expect(told).toBe(1)
    for (const note of appended) note()
    vi.advanceTimersByTime(5)
    expect(told).toBe(1)
    vi.advanceTimersByTime(6)
    expect(told).toBe(2)
    notice.close()
    expect(appended.size).toBe(0)
  })
})

describe('a heartbeat', () => {
  function heartbeat() {
    const beats: unknown[] = []
    let silent = 0
    const link = { open: true, idleMs: 60_000, beat: (of: unknown) => beats.push(of) }
    const heart = new Heartbeat({
      everyMs: () => 100,
      link: () => link,
      health: () => ({ healthy: true }),
      report: () => ({}),
      silenceMs: () => 500,
      events: { before: () => {}, onSilent: () => void silent++, onHeard: () => {} },
    })
    return { heart, beats, silent: () => silent }
  }

  it('takes nobody for silent before it has listened for as long itself', () => {
    const { heart, silent } = heartbeat()
    heart.start()
    vi.advanceTimersByTime(400)
    expect(silent()).toBe(0)
    vi.advanceTimersByTime(300)
    expect(silent()).toBeGreaterThan(0)
    heart.stop()
  })

  it('sends no heartbeat, and starts no timer, if the messages that are heard before it end the membership', () => {
    let sent = 0
    const ended: Heartbeat = new Heartbeat({
      everyMs: () => 20,
      link: () => ({ open: true, idleMs: 0, beat: () => void sent++ }),
      health: () => ({ healthy: true }),
      report: () => ({}),
      silenceMs: () => 1_000,
      events: { before: () => ended.stop(), onSilent: () => {}, onHeard: () => {} },
    })
    ended.start()
    expect([sent, vi.getTimerCount()]).toEqual([0, 0])
  })

  it('tells how this process is, and notices the silence of a holder that has a channel', () => {
    const told: unknown[] = []
    const link = { open: true, idleMs: 0, beat: (heartbeat: object) => void told.push(heartbeat) }
    let well: () => boolean = () => true
    let silent = 0
    let heard = 0
    const beats = new Heartbeat({
      everyMs: () => 20,
      link: () => link,
      health: () => checkHealth(() => well()),
      report: () => ({ connections: 1 }),
      silenceMs: () => 100,
      events: { before: () => {}, onSilent: () => void silent++, onHeard: () => void heard++ },
    })
    onTestFinished(() => beats.stop())
    expect(beats.holderSilent).toBe(false)
    beats.start()
    const pass = (ms: number, idleMs: number) => {
      link.idleMs = idleMs
      vi.advanceTimersByTime(ms)
    }
    pass(200, 0)
    expect([beats.holderSilent, silent, told.length]).toEqual([false, 0, 11])
    pass(20, 101)
    expect([beats.holderSilent, silent]).toEqual([true, 1])
    pass(40, 0)
    expect([beats.holderSilent, silent, heard]).toEqual([false, 1, 1])
    well = () => false
    pass(20, 0)
    well = () => {
      throw new Error('of the hook')
    }
    pass(20, 0)
    expect(told.slice(-3)).toEqual([
      { healthy: true, report: '{"connections":1}' },
      { healthy: false, report: '{"connections":1}' },
      { healthy: false, unwell: 'its health hook threw: of the hook', report: '{"connections":1}' },
    ])
    link.open = false
    pass(20, 1_000)
    expect(beats.holderSilent).toBe(false)
  })

  it('ends, and leaves no timer where it was started twice', () => {
    const { heart } = heartbeat()
    heart.start()
    heart.start()
    heart.stop()
    expect(vi.getTimerCount()).toBe(0)
  })
})

describe('a service that nobody serves', () => {
  it('waits no more once the daemon ends', () => {
    const rule = { afterMs: 1_000, act: 'close' } as const
    const ended: string[] = []
    const services = new UnservedServices({
      control: '/tmp/no.sock',
      logger: SILENT,
      rule: () => rule,
      isUnserved: () => true,
      isPaused: () => false,
      end: service => ended.push(service),
    })
    services.update('shop')
    services.close()
    expect(vi.getTimerCount()).toBe(0)
    vi.advanceTimersByTime(2_000)
    expect(ended).toEqual([])
  })
})

describe('a state that is larger than its limit', () => {
  it('causes a new warning where the service had ended meanwhile', () => {
    const said: object[] = []
    const logger = { ...SILENT, warn: (facts: object) => void said.push(facts) }
    let sizes = [{ service: 'shop', bytes: 11, most: 10 }]
    const watched = new StateSizes(() => sizes, logger)
    const all = sizes
    watched.update()
    watched.update()
    expect(said).toHaveLength(1)
    sizes = []
    watched.update()
    sizes = all
    watched.update()
    expect(said).toHaveLength(2)
  })
})

describe('changes that wait', () => {
  const write = (facts: Partial<NewWrite> = {}): NewWrite => ({
    sections: [],
    parts: [new Uint8Array(10)],
    request: '',
    prints: [],
    ...facts,
  })

  it('number as many as the limit says, and their bytes are free when they are settled', () => {
    const queue = new WriteQueue({ ...DEFAULT_LIMITS, waitingWrites: 2, waitingBytes: 1_000 })
    for (const _change of [1, 2]) void queue.add(write())
    expect(() => queue.add(write())).toThrow(/wait to be appended/)
    queue.remove(2)
    expect([queue.length, queue.bytes]).toEqual([0, 0])
    for (let n = 0; n < 200; n++) {
      void queue.add(write())
      queue.remove(1)
    }
    expect(queue.bytes).toBe(0)
  })

  it('go together up to the bytes that are asked for, an update always alone', () => {
    const queue = new WriteQueue(DEFAULT_LIMITS)
    const draw = () => ({ reads: [], sections: [], parts: [], result: null })
    void queue.add(write({ makeUpdate: draw, parts: [] }))
    void queue.add(write())
    void queue.add(write())
    expect(queue.first(1_000_000)).toHaveLength(1)
    queue.remove(1)
    expect(queue.first(1_000_000)).toHaveLength(2)
  })
})

describe('requests that are remembered', () => {
  it('number as many as the limit says: the oldest is forgotten', () => {
    const memory = new RequestMemory(2)
    for (const [at, id] of ['a', 'b', 'c', 'd'].entries()) memory.add(id, at + 1, 1)
    expect([memory.get('a'), memory.get('b')]).toEqual([undefined, undefined])
    expect(memory.upTo(3).map(({ id }) => id)).toEqual(['c'])
  })

  it('have a print that is never that of one that is not known', () => {
    expect(addPrint(0xffff_ffff, 1)).not.toBe(0)
    expect(addPrint(1, 2)).toBe(3)
  })
})
