import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { movePair } from '../../src/connections/pair.js'
import { FdbError } from '../../src/errors.js'
import type { Caller } from '../../src/holder/admission.js'
import { SegmentShelf } from '../../src/holder/segment-shelf.js'
import { OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { Reloading } from '../../src/member/commands.js'
import { Duty } from '../../src/member/duty.js'
import { Heartbeat } from '../../src/member/heartbeat.js'
import { LateWrites } from '../../src/member/late-writes.js'
import type { Listener } from '../../src/member/listener.js'
import { Moves } from '../../src/member/moves.js'
import { OlderGenerations, type ReportedTo } from '../../src/member/older-generations.js'
import { WriteCourier, WriteForwarder } from '../../src/member/writes/forwarder.js'
import { WriteReceiver } from '../../src/member/writes/receiver.js'
import { fdbroker } from '../../src/proto/wire.js'
import { encodeBody, PUT } from '../../src/state/records.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog, type StateLogOptions } from '../../src/state/state-log.js'
import type { BundleItem } from '../../src/wire/bundle.js'
import { checkDecodeCost } from '../../src/wire/decode-cost.js'
import { FORWARDS_WRITES, type Link, type LinkHandler, type WireBody } from '../../src/wire/link.js'
import { writingLog } from '../fixtures/state-logs.js'
import { until } from '../processes/until.js'

const { Envelope } = fdbroker.wire
const { Outcome } = fdbroker.wire.Written
type Written = fdbroker.wire.Written.$Properties

describe('whose turn it is', () => {
  function duty(hook?: () => void): { duty: Duty; told: string[] } {
    const told: string[] = []
    const events = Object.fromEntries(
      ['serving', 'retiring', 'reinstated', 'resumed'].map(event => [event, () => told.push(event)]),
    ) as unknown as ConstructorParameters<typeof Duty>[0]
    const made = new Duty(events, () => {}, SILENT)
    if (hook !== undefined) made.add(hook)
    return { duty: made, told }
  }

  it('is told once for each change, and not when nothing has changed', () => {
    const { duty: turn, told } = duty()
    turn.resume()
    turn.retire()
    expect(told).toEqual([])
    turn.begin()
    turn.resume()
    turn.begin()
    expect(told).toEqual(['serving'])
    turn.retire()
    turn.retire()
    turn.resume()
    expect(told).toEqual(['serving', 'retiring'])
    turn.begin()
    expect(told).toEqual(['serving', 'retiring', 'reinstated'])
  })

  it('ends with the work that may be done in one process only, which is ended once', async () => {
    let ended = 0
    const { duty: turn, told } = duty(() => ended++)
    turn.retire()
    expect([ended, turn.quiesce()]).toEqual([0, undefined])
    turn.begin()
    turn.retire()
    turn.retire()
    await turn.quiesce()
    expect([ended, told]).toEqual([1, ['serving', 'retiring']])
    turn.begin()
    await turn.quiesce()
    turn.resume()
    expect([ended, told]).toEqual([2, ['serving', 'retiring', 'reinstated', 'resumed']])
  })
})

describe('a heartbeat', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] }))
  afterEach(() => void vi.useRealTimers())

  it('tells how this process is, and notices the silence of one that has a channel and says nothing', () => {
    const told: WireBody[] = []
    const link = {
      open: true,
      idleMs: 0,
      beat: (heartbeat: WireBody['heartbeat']) => void told.push({ heartbeat }),
    }
    let well: () => boolean = () => true
    let silent = 0
    let heard = 0
    const beats = new Heartbeat({
      everyMs: () => 20,
      link: () => link as unknown as Link,
      healthy: () => well(),
      report: () => ({ connections: 1 }),
      silenceMs: () => 100,
      silent: () => silent++,
      heard: () => heard++,
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
    expect(told.slice(-3).map(({ heartbeat }) => heartbeat)).toEqual([
      { healthy: true, report: '{"connections":1}' },
      { healthy: false, report: '{"connections":1}' },
      { healthy: false, unwell: 'its health hook threw: of the hook', report: '{"connections":1}' },
    ])
    link.open = false
    pass(20, 1_000)
    expect(beats.holderSilent).toBe(false)
  })
})

describe('a courier of changes', () => {
  /** A link that takes messages of up to so many bytes. */
  function linked(most: number) {
    const sent: WireBody[] = []
    const link = {
      open: true,
      send: async (body: WireBody) => {
        if (Envelope.encode(body).finish().length > most) throw new Error('too large')
        sent.push(body)
      },
    }
    let failed = 0
    const courier = new WriteCourier(link as unknown as Link, () => void failed++)
    return { courier, link, sent, failed: () => failed }
  }
  const reads = (count: number) =>
    Array.from({ length: count }, (_, n) => ({ section: 's', key: `${n}`, mark: Buffer.alloc(16) }))

  it('has the most that a change may be in messages that are taken', async () => {
    const { courier, sent } = linked(16 * 1024 * 1024)
    const request = 'r'.repeat(255)
    courier.send(1, { request, parts: [Buffer.alloc(10)], reads: reads(32_000), durable: true })
    courier.send(2, { request, parts: [Buffer.alloc(16 * 1024 * 1024 - 1022)], reads: reads(32_000) })
    await until('all are sent', () => sent.length === 3)
    for (const body of sent) {
      const write = { ...body.write, number: 0xffff_ffff, source: 0xffff_ffff }
      const bytes = Envelope.encode({ write }).finish()
      expect(bytes.length).toBeLessThanOrEqual(16 * 1024 * 1024)
      expect(() => checkDecodeCost(bytes)).not.toThrow()
    }
    const shapes = sent.map(({ write }) => [
      write!.number,
      write!.parts!.length,
      write!.reads?.length ?? 0,
      write!.more,
    ])
    expect(shapes).toEqual([
      [1, 1, 32_000, false],
      [2, 1, 0, true],
      [2, 0, 32_000, false],
    ])
  })

  it('says that its link takes nothing more; its end is told otherwise', async () => {
    const { courier, link, sent, failed } = linked(1_000)
    courier.send(1, { request: 'a', parts: [Buffer.alloc(10)], reads: [] })
    courier.send(2, { request: 'b', parts: [Buffer.alloc(2_000)], reads: [] })
    await until('it is said', () => failed() > 0)
    link.open = false
    courier.send(3, { request: 'c', parts: [Buffer.alloc(2_000)], reads: [] })
    courier.send(4, { request: 'd', parts: [Buffer.alloc(10)], reads: [] })
    await until('the last is sent', () => sent.length === 2)
    expect(failed()).toBe(1)
  })

  it('has a link that takes nothing more left for another one', async () => {
    const log = new StateLog()
    log.startWriting(Segment.create(1))
    onTestFinished(() => log.close())
    let reconnected = 0
    const forwarder = new WriteForwarder(log, 5_000, () => void reconnected++)
    const failing = () => {
      const link = { open: true, send: () => Promise.reject(new Error('too large')) } as unknown as Link
      forwarder.connected(link)
      forwarder.welcomed(link, { capabilities: [FORWARDS_WRITES] })
      return link
    }
    forwarder.begin(new FdbError('ERR_FDB_FENCED', 'another serves'))
    const first = failing()
    log
      .section('s')
      .put('a', Buffer.from('a'))
      .catch(() => {})
    await until('the first is left', () => reconnected === 1)
    forwarder.lost(first)
    failing()
    await until('the second is left', () => reconnected === 2)
  })
})

describe('changes that other processes forward', () => {
  const part = (key: string, bytes = 1) => [
    encodeBody([{ section: 's', op: PUT, key, value: Buffer.alloc(bytes), version: 0 }]),
  ]

  async function receiving(options?: StateLogOptions) {
    const { log } = writingLog(options)
    onTestFinished(() => log.close())
    const section = log.section('s')
    // What the log knows of a section says who may read it.
    await section.put('here', Buffer.from('here'))
    const told: Written[] = []
    const receiver = new WriteReceiver(log, ({ written }) => void told.push(written!))
    return { receiver, section, told }
  }

  it('are made in parts as they come, and one that has begun is not forgotten for those that are whole', async () => {
    const { receiver, section, told } = await receiving()
    receiver.take({ number: 1, source: 0, request: 'two parts', parts: part('first'), more: true })
    for (let number = 2; number <= 100; number++)
      receiver.take({ number, source: 0, request: `r${number}`, parts: part(`k${number}`) })
    receiver.take({ number: 101, source: 0, request: 'gone', parts: part('gone'), more: true })
    receiver.take({ number: 101, source: 0, request: '' })
    receiver.take({ number: 1, source: 0, request: 'two parts', parts: part('second') })
    await until('all are answered', () => told.length === 100)
    expect([section.size, section.has('first'), section.has('second'), section.has('gone')]).toEqual([
      102,
      true,
      true,
      false,
    ])
  })

  it('are made not at all where one is refused before it has come whole, and answered once', async () => {
    const { receiver, section, told } = await receiving({ limits: { waitingBytes: 2_000 } })
    const piece = (number: number, key: string, bytes: number, more: boolean) =>
      receiver.take({ number, source: 0, request: `r${number}`, parts: part(key, bytes), more })
    piece(1, 'first', 1_000, true)
    piece(1, 'second', 1_500, true)
    piece(1, 'third', 10, true)
    piece(1, 'fourth', 10, false)
    // The number is free again behind the last piece.
    piece(1, 'another', 10, false)
    await until('both are answered', () => told.length >= 2)
    expect(told).toMatchObject([{ code: 'ERR_FDB_STATE_LIMIT' }, { outcome: Outcome.APPLIED }])
    expect([...section.keys()].sort()).toEqual(['another', 'here'])
  })

  it('are sent away where too many have come in part, and those that have begun are made', async () => {
    const { receiver, section, told } = await receiving()
    const piece = (source: number, number: number, key: string, more: boolean) =>
      receiver.take({ number, source, request: `${source} ${number}`, parts: part(key), more })
    const begun = Array.from({ length: 64 }, (_, i) => i + 1)
    for (const source of begun) piece(source, source, `${source} first`, true)
    piece(65, 65, '65 first', true)
    piece(65, 65, '65 second', true)
    // What it sends behind that must not be made before.
    piece(65, 66, '66', false)
    piece(65, 65, '65 last', false)
    for (const source of begun) piece(source, source, `${source} last`, false)
    await until('all are answered', () => told.length >= 66)
    expect(told.filter(({ outcome }) => outcome === Outcome.AGAIN).map(({ number }) => number)).toEqual([
      65, 66,
    ])
    expect(new Set(told.map(({ number }) => number)).size).toBe(told.length)
    expect(section.size).toBe(1 + 2 * 64)
    expect(['65 first', '65 second', '65 last', '66'].filter(key => section.has(key))).toEqual([])
    // It has connected anew, and is another source.
    piece(67, 67, '65 first', true)
    piece(67, 67, '65 last', false)
    await until('it is made', () => section.has('65 last'))
  })

  it('are no more than begun where their author has gone', async () => {
    const { receiver, section, told } = await receiving({ limits: { waitingBytes: 2_000 } })
    for (let number = 1; number <= 200; number++) {
      // Refused, or not: nothing is kept of it.
      receiver.take({
        number,
        source: number,
        request: 'r',
        parts: part('gone', (number % 2) * 3_000),
        more: true,
      })
      receiver.take({ number, source: number, request: '' })
    }
    receiver.take({ number: 201, source: 201, request: 'r', parts: part('first'), more: true })
    receiver.take({ number: 201, source: 201, request: 'r', parts: part('last') })
    await until('it is answered', () => told.some(({ number }) => number === 201))
    expect(told.filter(({ outcome }) => outcome === Outcome.AGAIN)).toEqual([])
    expect([...section.keys()].sort()).toEqual(['first', 'here', 'last'])
  })
})

describe('older generations that drain', () => {
  it('are known to be empty by what they said last', () => {
    const emptied: number[] = []
    const log = new StateLog()
    const shelf = new SegmentShelf()
    const older = new OlderGenerations({
      shelf,
      state: log,
      generation: 4,
      serviceStartedAt: 0,
      moves: { take: () => {}, emptied: ({ pid }) => emptied.push(pid) },
    } satisfies ReportedTo)
    onTestFinished(() => {
      older.close()
      log.close()
    })
    const reporting = (pid: number, ...connections: number[]) => {
      let handler!: LinkHandler
      const link = {
        channel: { unref() {} },
        start: (given: LinkHandler) => {
          handler = given
        },
        close() {},
      }
      older.add({ pid, pidfd: null, link, hello: { generation: pid } } as unknown as Caller)
      for (const count of connections) {
        const report = JSON.stringify({ generation: pid, phase: 'leaving', connections: count })
        handler.message({ heartbeat: { healthy: true, report } } as never, [])
      }
      return () => handler.end(null)
    }
    const ends = [reporting(1), reporting(2, 0, 3), reporting(3, 3, 0)]
    expect(older.reports.map(({ pid, phase, connections }) => [pid, phase, connections])).toEqual([
      [1, 'unknown', 0],
      [2, 'leaving', 3],
      [3, 'leaving', 0],
    ])
    for (const end of ends) end()
    expect([emptied, older.reports]).toEqual([[3], []])
  })
})

describe('a process that may not write any more', () => {
  function late(facts: {
    phase: string
    closing?: boolean
    over?: boolean
    sealed?: boolean
    alone?: boolean
  }) {
    const log = new StateLog()
    const shelf = new SegmentShelf()
    const steps: string[] = []
    const { phase, closing = false, over = false, sealed = false, alone = false } = facts
    const shared = {
      departure: { closing, over },
      machine: {
        phase,
        sealed,
        member: { epoch: 1, link: alone ? 'local' : 'up' },
        holder: alone ? { phase: 'idle' } : null,
        step: ({ type }: { type: string }) => steps.push(type),
      },
      settings: { timeout: 1_000, logger: SILENT },
      shelf,
      unfitness: { refusal: () => new Error('unfit') },
    }
    const state = { log, file: null, follow: async () => {} }
    const writes = new LateWrites(shared as never, state as never, { open: () => true, reconnect: () => {} })
    onTestFinished(() => {
      writes.forwarder.end()
      log.close()
      shelf.close()
    })
    return { writes, shelf, steps }
  }

  it('forwards its changes when it stands by, leaves or was cut off, and ends them when it is unfit, or the only one', async () => {
    for (const facts of [{ phase: 'standby' }, { phase: 'leaving' }, { phase: 'leaving', closing: true }]) {
      const { writes } = late(facts)
      await writes.end()
      expect(writes.forwarder.active).toBe(true)
    }
    for (const facts of [{ phase: 'unfit' }, { phase: 'leaving', alone: true }]) {
      const { writes } = late(facts)
      writes.forwarder.begin(new Error('late') as never)
      await writes.end()
      expect(writes.leave()).toBe(false)
      expect(writes.forwarder.active).toBe(false)
    }
  })

  it('that finds its segment sealed forwards them when it leaves, and else asks where it stands', () => {
    const leaving = late({ phase: 'leaving', closing: true, sealed: true })
    leaving.writes.look()
    expect([leaving.writes.forwarder.active, leaving.steps]).toEqual([true, []])
    const serving = late({ phase: 'serving', sealed: true })
    serving.writes.look()
    expect([serving.writes.forwarder.active, serving.steps]).toEqual([false, ['sealed']])
    for (const facts of [{ phase: 'serving' }, { phase: 'gone', over: true, sealed: true }]) {
      const quiet = late(facts)
      quiet.writes.look()
      expect(quiet.steps).toEqual([])
    }
  })

  it('takes segments that are newer than those that it has, and closes the rest', () => {
    const bring = (over: boolean) => {
      const { writes, shelf } = late({ phase: 'standby', over })
      shelf.make([2])
      const segments = [1, 2, 3].map(epoch => Segment.create(epoch))
      const other = OwnedFd.own(native.memfd('other'), 'other')
      const items: BundleItem[] = segments.map(({ epoch, fd }) => ({ role: 'segment', epoch, fd }))
      writes.takeNewer([...items, { role: 'named', epoch: 9, fd: other }])
      return [
        shelf.all.map(({ epoch }) => epoch),
        [...segments.map(({ fd }) => fd), other].map(fd => fd.closed),
      ]
    }
    expect(bring(false)).toEqual([
      [2, 3],
      [true, true, false, true],
    ])
    expect(bring(true)).toEqual([[2], [true, true, true, true]])
  })
})

describe('the way to read the configuration anew', () => {
  it('is one hook of the application, called one time after the other, also when it fails', async () => {
    const announcer = { reload: async (hook: () => unknown) => await hook() }
    const reloading = new Reloading(announcer as never)
    await expect(reloading.run()).rejects.toMatchObject({ code: 'ERR_FDB_COMMAND_UNKNOWN' })
    for (const wrong of [null, 'hook', {}])
      expect(() => reloading.set(wrong as never)).toThrow(expect.objectContaining({ code: 'ERR_FDB_OPTION' }))
    const story: string[] = []
    reloading.set(async () => {
      story.push('begins')
      await null
      story.push('ends')
      if (story.length === 2) throw new Error('of the hook')
    })
    expect(() => reloading.set(() => {})).toThrow(expect.objectContaining({ code: 'ERR_FDB_OPTION' }))
    const both = await Promise.allSettled([reloading.run(), reloading.run()])
    expect([story, both.map(({ status }) => status)]).toEqual([
      ['begins', 'ends', 'begins', 'ends'],
      ['rejected', 'fulfilled'],
    ])
  })
})

describe('the moves of connections', () => {
  function moves(connections: number, movable: number) {
    const told: string[] = []
    const logger = { ...SILENT, info: (_: object, message: string) => void told.push(message) }
    const listener = {
      name: 'web',
      connections,
      moving: [{ movable, protocol: 'http' }],
      announce: () => told.push('announced'),
      announceFixed: () => {},
    }
    const made = new Moves({
      settings: { move: 'auto', drainTimeout: 60_000, movesPerSecond: 1, firstWave: 0, logger } as never,
      listeners: () => [listener as unknown as Listener],
      ask: () => told.push('asked'),
    })
    onTestFinished(() => made.close())
    return { made, told, listener }
  }

  it('are asked for where there is something to move, and a process that serves', () => {
    const [some, none, alone] = [moves(2, 1), moves(2, 0), moves(2, 1)]
    some.made.leave(true)
    none.made.leave(true)
    alone.made.leave(false)
    expect([some.told, none.told, alone.told]).toEqual([['asked'], [], ['announced']])
  })

  it('are waited for in vain before peers are told to go, and a pause in which the process stood still is not waiting', async () => {
    const { made, told } = moves(2, 1)
    made.leave(true)
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2_200)
    await until('it has asked again', () => told.length > 1)
    expect(told).not.toContain('announced')
    await until('peers are told', () => told.includes('announced'))
    expect(told.indexOf('announced')).toBeGreaterThanOrEqual(8)
  })

  it('are said to be over, once, when no connection is left', () => {
    const { made, told, listener } = moves(1, 0)
    made.leave(true)
    made.close()
    expect(told).toEqual([])
    made.leave(true)
    listener.connections = 0
    made.close()
    made.close()
    expect(told).toEqual([expect.stringContaining('no connection is left')])
  })

  it('need a process that leaves: one that serves gives nothing', () => {
    const { made } = moves(1, 1)
    using pair = movePair()
    const [channel, log] = [pair.give.dup(), pair.log.fd.dup()]
    made.give(channel, log, null)
    expect([channel.closed, log.closed]).toEqual([true, true])
  })
})
