import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { movePair } from '../../../src/connections/move-channel.js'
import { MoveLog } from '../../../src/connections/move-log.js'
import { closeAll, type OwnedFd, socketPair } from '../../../src/kernel/index.js'
import { Moves } from '../../../src/member/drain/moves.js'
import { openPidfd } from '../../../src/os/liveness.js'
import { Channel } from '../../../src/wire/channel.js'
import { Link } from '../../../src/wire/link.js'
import { until } from '../../processes/until.js'

describe('the moves of connections', () => {
  function moves(connections: number, movable: number) {
    const told: string[] = []
    const logger = { ...SILENT, info: (_: object, message: string) => void told.push(message) }
    const listener = {
      name: 'web',
      address: { url: 'tcp://127.0.0.1:80' },
      isClosed: false,
      connections,
      moving: [
        {
          movable,
          protocol: 'http',
          departures: () => [].values(),
          onMovable: null,
          check: () => undefined,
          arrive: () => undefined,
        },
      ],
      announce: () => told.push('announced'),
      announceFixed: () => {},
    }
    const made = new Moves({
      settings: {
        move: 'auto',
        drainTimeout: 60_000,
        drainTlsTimeout: 60_000,
        movesPerSecond: 1,
        firstWave: 0,
        logger,
      },
      listeners: () => [listener],
      ask: () => told.push('asked'),
      began: () => {},
    })
    onTestFinished(() => made.close())
    return { made, told, listener }
  }

  it('need something to move, and a process that serves', () => {
    const [some, none, alone] = [moves(2, 1), moves(2, 0), moves(2, 1)]
    some.made.leave(true)
    none.made.leave(true)
    alone.made.leave(false)
    expect([some.told, none.told, alone.told]).toEqual([['asked'], [], ['announced']])
  })

  it('ask for a receiver until half of the drain is over: only then clients are told to leave', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
    onTestFinished(() => void vi.useRealTimers())
    const { made, told } = moves(2, 1)
    made.leave(true)
    await vi.advanceTimersByTimeAsync(29_900)
    expect([told.length > 100, new Set(told)]).toEqual([true, new Set(['asked'])])
    await vi.advanceTimersByTimeAsync(200)
    expect(told.filter(words => words === 'announced').length).toBe(1)
  })

  it.each([0, 300, 1_900, 2_500, 31_000])(
    'begin anew the second time, if this process has served again after %d ms',
    async ms => {
      vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
      onTestFinished(() => void vi.useRealTimers())
      const { made, told } = moves(2, 1)
      /** The words, each with its time. */
      const leave = async (forMs: number) => {
        const story: [number, string][] = []
        const began = performance.now()
        made.leave(true)
        for (let at = 0; at <= forMs; at += 50) {
          for (const words of told.splice(0)) story.push([performance.now() - began, words])
          await vi.advanceTimersByTimeAsync(50)
        }
        return story
      }
      const first = await leave(40_000)
      expect(first.map(([, words]) => words)).toContain('announced')
      made.serve()
      expect(vi.getTimerCount()).toBe(0)
      await leave(ms)
      made.serve()
      expect(await leave(40_000)).toEqual(first)
      made.close()
      expect(vi.getTimerCount()).toBe(0)
    },
  )

  it('end, once, when no connection is left', () => {
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

  it('bring nothing to a process that leaves, until it serves again', () => {
    const { made } = moves(1, 0)
    const takes = () => {
      using pair = movePair()
      const [channel, log] = [pair.take.dup(), pair.log.fd.dup()]
      made.receive(channel, log, process.pid)
      return !channel.closed
    }
    expect(takes()).toBe(true)
    made.leave(false)
    expect(takes()).toBe(false)
    made.serve()
    expect(takes()).toBe(true)
  })

  it('arrive, if they were on their way to a process that leaves, before its server announces the end to all', async () => {
    const { made, told, listener } = moves(0, 0)
    listener.announceFixed = () => void told.push('announced')
    listener.moving[0]!.arrive = () => void told.push('arrived')
    using pair = movePair()
    made.receive(pair.take.dup(), pair.log.fd.dup(), process.pid)
    const link = new Link(new Channel(pair.give.dup()))
    const log = MoveLog.open(pair.log.fd.dup())
    const acknowledged = new Promise(resolve =>
      link.start({ message: resolve, broken: () => {}, end: () => {} }),
    )
    const [here, there] = socketPair('a connection')
    const moving = { listener: 'web', address: listener.address.url, protocol: 'http', fds: 1 }
    await link.send({ prepare: { slice: 1, connections: [moving] } }, [there])
    await acknowledged
    log.append(1, 'moved')
    made.leave(true)
    made.limit(30_000)
    made.whenArrived(() => told.push('all are here'))
    await until('all are here', () => told.includes('all are here'))
    expect(told).toEqual(['arrived', 'announced', 'announced', 'all are here'])
    link.close()
    log.close()
    closeAll([here, there])
  })

  it('need a process that leaves: one that serves gives nothing', () => {
    const { made } = moves(1, 1)
    using pair = movePair()
    const [channel, log] = [pair.give.dup(), pair.log.fd.dup()]
    made.send(channel, log, null)
    expect([channel.closed, log.closed]).toEqual([true, true])
  })

  it('keep one descriptor of a receiver that closes each channel', async () => {
    const { made } = moves(1, 1)
    using receiver = openPidfd(process.pid) as OwnedFd
    made.leave(true)
    const dups = vi.spyOn(receiver, 'dup')
    for (let channels = 1; channels <= 5; channels++)
      await until('a channel is used', () => {
        using pair = movePair()
        made.send(pair.give.dup(), pair.log.fd.dup(), receiver)
        return dups.mock.results.length === channels
      })
    const open = dups.mock.results.filter(({ value }) => !(value as OwnedFd).closed)
    expect(open.length).toBe(1)
  })
})
