import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import net from 'node:net'
import { afterEach, assert, describe, expect, it, onTestFinished, vi } from 'vitest'
import { MoveCounts, TURN_MS } from '../../../src/connections/counts.js'
import {
  type Arrival,
  MAX_CONNECTION_FDS,
  MAX_RECORD_BYTES,
  type MoveWhich,
  type Witness,
} from '../../../src/connections/movable.js'
import { movePair } from '../../../src/connections/move-channel.js'
import { MoveLog } from '../../../src/connections/move-log.js'
import { fdsOf, SliceFiller } from '../../../src/connections/move-slice.js'
import { ConnectionReceiver } from '../../../src/connections/receiver.js'
import { ConnectionSender } from '../../../src/connections/sender.js'
import { closeAll, MAX_FDS_PER_MESSAGE, OwnedFd, SEAL_WRITE } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { openPidfd } from '../../../src/os/liveness.js'
import { Channel } from '../../../src/wire/channel.js'
import { Link } from '../../../src/wire/link.js'
import { type MoveOptions, moveBetween } from '../../connections-support/move-between.js'
import { type PairConnection, SocketPairs } from '../../connections-support/socket-pairs.js'
import { longestTurn } from '../../fixtures/state-logs.js'
import { pause, until } from '../../processes/until.js'
import { leastOf } from '../../processes/worked.js'

const seen = (look: () => boolean) => until('connections where they belong', look)

const hands: SocketPairs[] = []

/** Connected socket pairs by name: one end is moved about, the other stays with the test. */
class Hand extends SocketPairs {
  readonly came: [string, Arrival][] = []
  /** Milliseconds that it takes to take one out, or in. */
  slow = 0
  /** Connections that need more than a message may hold. */
  large = new Set<string>()
  /** Connections for which the server throws when it should give them. The last ones to be given. */
  faulty = new Set<string>()
  /** The record of every connection that arrives. */
  witness = { asked: false, answered: false }

  constructor() {
    super()
    hands.push(this)
  }

  override *departures(which: MoveWhich): Generator<PairConnection | null, void, undefined> {
    for (const value of super.departures(which)) {
      if (value !== null && this.faulty.has(value.state)) {
        this.here.set(value.state, value.fds[0]!)
        throw new Error(`${value.state} cannot go`)
      }
      busy(this.slow)
      yield value
    }
  }

  override arrive(value: PairConnection, how: Arrival): Witness {
    busy(this.slow)
    this.came.push([value.state, how])
    if (how === 'refused') value.fds[0]!.close()
    else super.arrive(value, how)
    return this.witness
  }

  protected override recordOf(name: string): Uint8Array {
    return Buffer.from(name.padEnd(this.large.has(name) ? MAX_RECORD_BYTES + 1 : 0))
  }
}

/** By the processor's time, which a budget of a turn counts where others have the processor meanwhile. */
function busy(ms: number): void {
  const begun = process.cpuUsage()
  for (;;) {
    const { user, system } = process.cpuUsage(begun)
    if (user + system >= ms * 1000) return
  }
}

/** Timers elapse only by `stopped`, as after SIGSTOP: before what has arrived is read. */
function timersStand(): { stopped: (ms: number) => void; seen: (look: () => boolean) => Promise<void> } {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
  onTestFinished(() => void vi.useRealTimers())
  const seen = async (look: () => boolean) => {
    for (let turns = 0; turns < 10_000 && !look(); turns++)
      await new Promise(resolve => setImmediate(resolve))
    expect(look()).toBe(true)
  }
  // A turn runs timers, then reads, then runs immediates: from one to the next this is as in the real order.
  return { stopped: ms => void setImmediate(() => vi.advanceTimersByTime(ms)), seen }
}

/** Longer than a slice may take, and much shorter than a sender waits for an acknowledgement. */
const LATE_MS = 20

const others: OwnedFd[] = []
const children: ChildProcess[] = []

afterEach(() => {
  for (const fd of others.splice(0)) fd.close()
  // Or the next test counts them, until they are collected.
  for (const hand of hands.splice(0)) for (const fd of hand.here.values()) fd.close()
  for (const child of children.splice(0)) child.kill('SIGKILL')
})

function fill(hand: Hand, count: number): void {
  others.push(...hand.fill(count))
}

/** `before`: servers that are asked for connections before `old`. */
function way({ before = [], ...options }: MoveOptions & { before?: readonly Hand[] } = {}) {
  const old = new Hand()
  const young = new Hand()
  return { ...moveBetween([...before, old], young, options), old, young }
}

const open = () => native.openCount()

describe('connections that move', () => {
  it('all reach the other process in the end, and in order, whatever the number', async () => {
    const before = open()
    const { sender, receiver, old, young, given, taken, ended } = way()
    fill(old, 1_000)
    receiver.start()
    sender.start()
    await seen(() => young.here.size === 1_000)
    expect(old.here.size).toBe(0)
    expect(young.came.map(([name]) => name)).toEqual(Array.from({ length: 1_000 }, (_, i) => `c${i}`))
    await seen(() => given.moved === 1_000)
    expect(taken.report).toMatchObject({ moved: 0, arrived: 1_000, lost: 0, refused: {} })
    await sender.stop()
    await ended
    for (const fd of young.here.values()) fd.close()
    for (const fd of others.splice(0)) fd.close()
    expect(open()).toBe(before)
  })

  it('stay where they are when the other refuses them, with the reason counted', async () => {
    const { sender, receiver, old, young, given } = way()
    fill(old, 100)
    young.refuses = name => Number(name.slice(1)) % 10 === 0
    receiver.start()
    sender.start()
    await seen(() => young.here.size === 90 && old.came.length === 10)
    expect(old.came.every(([name, how]) => how === 'refused' && name.endsWith('0'))).toBe(true)
    expect(given.report).toMatchObject({
      moved: 90,
      arrived: 0,
      lost: 0,
      refused: { ERR_FDB_RELAYED_REFUSED: 10 },
    })
    await sender.stop()
  })

  it('come back when the other leaves before it has acknowledged them', async () => {
    const { sender, receiver, old, young, ended } = way()
    fill(old, 50)
    sender.start()
    // The receiver never reads: its end of the channel is closed as by a death.
    await seen(() => old.here.size < 50)
    void receiver.stop()
    await ended
    expect(old.here.size).toBe(50)
    expect(old.came.every(([, how]) => how === 'returned')).toBe(true)
    expect(young.here.size).toBe(0)
  })

  it('come back when the other does not acknowledge them in time; then no more goes this way, and it is told so', async () => {
    const before = open()
    const { link, sender, old, given, ended } = loneSender()
    fill(old, 50)
    const heard: number[] = []
    const told = new Promise<void>(resolve => {
      link.start({
        message: ({ prepare }, fds) => {
          if (prepare) heard.push(prepare.slice ?? 0)
          for (const fd of fds) fd.close()
        },
        broken() {},
        end: () => resolve(),
      })
    })
    sender.start()
    await Promise.all([told, ended])
    expect(heard).toEqual([1])
    expect(old.here.size).toBe(50)
    expect(given.report).toMatchObject({ moved: 0, lost: 0, refused: {} })
    // Later messages are ignored: another way would be asked for.
    old.onMovable?.()
    await sender.settled()
    expect(old.here.size).toBe(50)
    for (const fd of old.here.values()) fd.close()
    for (const fd of others.splice(0)) fd.close()
    expect(open()).toBe(before)
  })

  it('go on when this process was stopped beyond the time in which the other has acknowledged them', async () => {
    const { stopped, seen } = timersStand()
    const { link, sender, old, ended } = loneSender()
    fill(old, 50)
    let isFirst = true
    link.start({
      message: ({ prepare }, fds) => {
        closeAll(fds)
        if (!prepare) return
        void link.send({ prepareAck: { slice: prepare.slice } }).then(() => {
          if (isFirst) stopped(2_000)
          isFirst = false
        })
      },
      broken() {},
      end() {},
    })
    sender.start()
    await seen(() => old.here.size === 0)
    await sender.stop()
    await ended
    link.close()
  })

  it('come back from the other before the end of moves, also where this process was stopped meanwhile', async () => {
    const { stopped } = timersStand()
    const { link, sender, old, ended } = loneSender()
    fill(old, 1)
    let kept: OwnedFd[] = []
    link.start({
      message: ({ prepare, moved }, fds) => {
        if (prepare) {
          kept = fds
          link.post({ prepareAck: { slice: prepare.slice, returns: true } })
        }
        if (!moved) return
        const returned = [{ listener: 'web', protocol: 'test/1', record: Buffer.from('c0'), fds: 1 }]
        void link.send({ adopted: { slice: moved.slice, returned } }, kept).then(() => {
          closeAll(kept)
          void sender.stop()
          stopped(2_000)
        })
      },
      broken() {},
      end() {},
    })
    sender.start()
    await ended
    expect(old.came).toEqual([['c0', 'refused']])
    link.close()
  })

  it.each([
    ['grow where it waits for other processes, and does little work', 10, 300],
    ['stay small where it works long', 30_000, 4],
    ['stay small where it does not tell its work', undefined, 4],
  ])(
    'go in slices by the work of the receiver, which acknowledges late: these %s',
    async (_, each, largest) => {
      const { link, sender, old, ended } = loneSender()
      fill(old, 300)
      const sizes: number[] = []
      link.start({
        message: ({ prepare }, fds) => {
          closeAll(fds)
          if (!prepare) return
          const size = prepare.connections?.length ?? 0
          sizes.push(size)
          const worked = each === undefined ? {} : { worked: each * size }
          setTimeout(() => link.post({ prepareAck: { slice: prepare.slice, ...worked } }), LATE_MS)
        },
        broken() {},
        end() {},
      })
      sender.start()
      await seen(() => sizes.length === 12 || old.here.size === 0)
      expect(Math.max(...sizes)).toBeLessThanOrEqual(largest)
      if (largest > 4) expect(Math.max(...sizes)).toBeGreaterThan(4)
      await sender.stop()
      await ended
      link.close()
    },
  )

  it('leave their server while the other has the previous slice, and come back when the channel ends', async () => {
    const { link, sender, old, ended } = loneSender()
    fill(old, 100)
    const sizes: number[] = []
    link.start({
      message: ({ prepare }, fds) => {
        closeAll(fds)
        if (!prepare) return
        sizes.push(prepare.connections?.length ?? 0)
        const left = () => 100 - old.here.size - sizes.reduce((sum, size) => sum + size, 0)
        if (sizes.length > 3) void seen(() => left() > 0).then(() => link.close())
        else
          void seen(() => left() > 0).then(() =>
            link.post({ prepareAck: { slice: prepare.slice, worked: 10 } }),
          )
      },
      broken() {},
      end() {},
    })
    sender.start()
    await ended
    const moved = sizes.slice(0, 3).reduce((sum, size) => sum + size, 0)
    expect(old.here.size).toBe(100 - moved)
    await sender.settled()
  })

  it('stay when the other has sealed the log before it acknowledges them: no more goes this way', async () => {
    const before = open()
    const { link, sender, old, log, given, ended } = loneSender()
    const theirs = MoveLog.open(log.fd.dup())
    fill(old, 50)
    const heard: number[] = []
    link.start({
      message: ({ prepare }, fds) => {
        closeAll(fds)
        if (!prepare) return
        heard.push(prepare.slice ?? 0)
        theirs.seal()
        link.post({ prepareAck: { slice: prepare.slice } })
      },
      broken() {},
      end() {},
    })
    sender.start()
    await seen(() => old.came.length > 0)
    // The connections are open again, and could leave, while the channel is not seen to end.
    old.onMovable?.()
    await ended
    expect(heard).toEqual([1])
    expect(old.here.size).toBe(50)
    expect(given.report).toMatchObject({ moved: 0, lost: 0, refused: {} })
    link.close()
    theirs.close()
    for (const fd of old.here.values()) fd.close()
    for (const fd of others.splice(0)) fd.close()
    expect(open()).toBe(before)
  })

  it('stay alive when their server fails in the middle: the log has the fault, and the others go in the next pass', async () => {
    const { sender, receiver, old, young, faults } = way()
    fill(old, 10)
    old.faulty.add('c2')
    receiver.start()
    sender.start()
    await seen(() => young.here.size === 9)
    expect([...old.here.keys()]).toEqual(['c2'])
    expect(faults[0]).toMatchObject({ message: 'c2 cannot go' })
    old.faulty.clear()
    await seen(() => young.here.size === 10)
    await sender.stop()
    for (const fd of young.here.values()) fd.close()
  })

  it('go although a server that is asked before theirs fails each time', async () => {
    const broken = new Hand()
    const { sender, receiver, old, young, faults } = way({ before: [broken] })
    fill(old, 10)
    broken.departures = () => {
      throw new Error('it is broken')
    }
    receiver.start()
    sender.start()
    await seen(() => young.here.size === 10)
    expect(faults[0]).toMatchObject({ message: 'it is broken' })
    await sender.stop()
    for (const fd of young.here.values()) fd.close()
  })

  it('leave by turns of their servers, and again when one says that more can leave', async () => {
    const many = new Hand()
    const { sender, receiver, old, young } = way({ before: [many] })
    fill(many, 400)
    const waiting = new Map<string, OwnedFd>()
    for (let n = 0; n < 20; n++) {
      const [a, b] = native.socketPair()
      waiting.set(`d${n}`, OwnedFd.own(a, `d${n}`))
      others.push(OwnedFd.own(b, `peer of d${n}`))
    }
    const departures = old.departures.bind(old)
    // The first ten can leave now, and the others after these.
    const mayLeave = (names: string[]) => {
      for (const name of names) old.here.set(name, waiting.get(name)!)
    }
    const names = [...waiting.keys()]
    mayLeave(names.slice(0, 10))
    let left = 0
    old.departures = function* (which) {
      yield* departures(which)
      if (left++ > 0) return
      mayLeave(names.slice(10))
      setImmediate(() => old.onMovable?.())
    }
    receiver.start()
    sender.start()
    await seen(() => young.came.length === 420)
    const last = young.came.findIndex(([name]) => name === 'd19')
    expect(last).toBeLessThan(300)
    await sender.stop()
    for (const fd of young.here.values()) fd.close()
  })

  it('leave by one iterator at a time, also those of a server with two listeners', async () => {
    const [both, young] = [new Hand(), new Hand()]
    const { sender, receiver } = moveBetween([both, both], young, {})
    fill(both, 50)
    const departures = both.departures.bind(both)
    let [now, most] = [0, 0]
    both.departures = function* (which) {
      most = Math.max(most, ++now)
      yield* departures(which)
      now--
    }
    receiver.start()
    sender.start()
    await seen(() => young.here.size === 50)
    expect(most).toBe(1)
    await sender.stop()
    for (const fd of young.here.values()) fd.close()
  })

  it('do not hold the event loop if many stay', async () => {
    const { sender, receiver, old, young, given } = way()
    fill(old, 1)
    const departures = old.departures.bind(old)
    old.departures = function* (which) {
      for (let n = 0; n < 400; n++) {
        busy(0.1)
        yield null
      }
      yield* departures(which)
    }
    receiver.start()
    sender.start()
    await seen(() => young.here.size === 1)
    await sender.stop()
    expect(given.report.longestGivingMs).toBeLessThan(20)
    for (const fd of young.here.values()) fd.close()
  })

  it('move in two waves: the rest follows when the receiver has lived with the first few for a while', async () => {
    const { sender, receiver, old, young, given } = way({ firstWaveMs: 150 })
    fill(old, 1_000)
    receiver.start()
    const begun = performance.now()
    sender.start()
    await seen(() => young.here.size === 10)
    await seen(() => given.moved > 10)
    expect(performance.now() - begun).toBeGreaterThanOrEqual(149)
    await seen(() => young.here.size === 1_000)
    await sender.stop()
    for (const fd of young.here.values()) fd.close()
  })

  it('come one after the other when the first few are proved, and those at once that can leave later', async () => {
    const { sender, receiver, old, young, given } = way({ firstWaveMs: 130 })
    fill(old, 308)
    receiver.start()
    sender.start()
    await seen(() => given.moved > 8)
    const begun = performance.now()
    await seen(() => young.here.size === 308)
    // 390 ms, but for those that may be late and those that went until it was seen.
    expect(performance.now() - begun).toBeGreaterThan(290)
    // The next pass finds nothing left.
    await seen(() => given.moved === 308)
    await pause(50)
    for (const fd of young.here.values()) fd.close()
    young.here.clear()
    fill(old, 300)
    const timers = vi.spyOn(globalThis, 'setTimeout')
    onTestFinished(() => timers.mockRestore())
    old.onMovable!()
    while (young.here.size < 300) await new Promise(setImmediate)
    // Spread, each slice would wait some milliseconds. The next pass comes after 250, the limits of an acknowledgement are of seconds.
    expect(timers.mock.calls.map(([, ms]) => ms!).filter(ms => ms < 250)).toEqual([])
    await sender.stop()
    for (const fd of young.here.values()) fd.close()
  })

  it('wait for an answer where something was asked on the first few', async () => {
    const { sender, receiver, old, young } = way({ firstWaveMs: 1 })
    young.witness = { asked: true, answered: false }
    fill(old, 100)
    receiver.start()
    sender.start()
    await seen(() => young.here.size === 8)
    await new Promise(resolve => setTimeout(resolve, 100))
    expect(young.here.size).toBe(8)
    young.witness.answered = true
    await seen(() => young.here.size === 100)
    await sender.stop()
    for (const fd of young.here.values()) fd.close()
  })

  it('go without an answer when half of the time is over after which they are closed', async () => {
    const { sender, receiver, old, young } = way({ firstWaveMs: 60_000, drainMs: 100 })
    young.witness = { asked: true, answered: false }
    fill(old, 100)
    receiver.start()
    sender.start()
    await seen(() => young.here.size === 100)
    await sender.stop()
    for (const fd of young.here.values()) fd.close()
  })

  it('end with a receiver that dies in the first wave, but for those that were not in it', async () => {
    const { sender, receiver, old, young, ended } = way({ firstWaveMs: 60_000 })
    fill(old, 100)
    receiver.start()
    sender.start()
    await seen(() => young.here.size === 8)
    await receiver.stop()
    await ended
    expect([old.here.size, young.here.size]).toEqual([92, 8])
    for (const fd of young.here.values()) fd.close()
  })

  it('stay alone when their record is too large: the others go, and the reason is counted', async () => {
    const { sender, receiver, old, young, given, faults } = way()
    fill(old, 300)
    for (const name of ['c0', 'c150', 'c299']) old.large.add(name)
    receiver.start()
    sender.start()
    await seen(() => young.here.size === 297 && given.moved === 297)
    await sender.stop()
    expect(old.came).toEqual([...old.large].map(name => [name, 'refused']))
    expect(given.report).toMatchObject({ refused: { ERR_FDB_CONNECTION_LARGE: 3 }, lost: 0 })
    expect(faults).toMatchObject(Array(3).fill({ code: 'ERR_FDB_CONNECTION_LARGE' }))
    for (const fd of young.here.values()) fd.close()
  })

  it('delay the end until they have an owner', async () => {
    const { sender, receiver, old, ended } = way()
    fill(old, 50)
    sender.start()
    await seen(() => old.here.size < 50)
    let settled = false
    const settling = sender.settled().then(() => {
      settled = true
    })
    await pause(20)
    expect(settled).toBe(false)
    void receiver.stop()
    await settling
    expect(old.here.size).toBe(50)
    await ended
    await sender.settled()
  })

  it('delay the end until those that were refused are back, however long that takes', async () => {
    const { sender, receiver, old, young } = way()
    fill(old, 4)
    young.refuses = () => {
      old.slow = 2 * TURN_MS
      return true
    }
    receiver.start()
    sender.start()
    while (old.came.length === 0) await new Promise(resolve => setImmediate(resolve))
    expect(old.came.length).toBeLessThan(4)
    await sender.stop()
    expect(old.came.length).toBe(4)
  })

  it('come back when the sender stops in the middle, and none is in two hands', async () => {
    const { sender, receiver, old, young, ended } = way()
    fill(old, 500)
    old.slow = 0.2
    receiver.start()
    sender.start()
    await seen(() => young.here.size > 0)
    await sender.stop()
    expect(old.onMovable).toBeNull()
    await ended
    expect(old.here.size + young.here.size).toBe(500)
    for (const name of old.here.keys()) expect(young.here.has(name)).toBe(false)
  })

  it('come back when their server ends the moves while it gives them', async () => {
    const { sender, receiver, old, given, ended } = way()
    fill(old, 3)
    const departures = old.departures.bind(old)
    old.departures = function* (which) {
      for (const value of departures(which)) {
        void sender.stop()
        yield value
      }
    }
    receiver.start()
    sender.start()
    await ended
    await seen(() => old.here.size === 3)
    expect([old.came, given.report.moved, old.onMovable]).toEqual([[['c0', 'returned']], 0, null])
  })

  it('stay with the other when the sender dies and has not decided', async () => {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' })
    children.push(child)
    await once(child, 'spawn')
    const pidfd = openPidfd(child.pid!)
    assert(pidfd !== null && pidfd !== 'dead', 'this kernel tells processes by descriptors')
    child.kill('SIGKILL')
    await once(child, 'exit')
    const young = new Hand()
    const pair = movePair()
    const link = new Link(new Channel(pair.give))
    const acks: number[] = []
    link.start({
      message: ({ prepareAck }) => prepareAck && acks.push(prepareAck.slice ?? 0),
      broken() {},
      end() {},
    })
    let over!: () => void
    const ended = new Promise<void>(resolve => (over = resolve))
    new ConnectionReceiver({
      link: new Link(new Channel(pair.take)),
      log: MoveLog.open(pair.log.fd.dup()),
      sender: pidfd,
      target: () => young,
      counts: new MoveCounts(),
      reportError() {},
      onEnded: over,
    }).start()
    await prepare(link, 1, ['a', 'b'])
    await seen(() => acks.length === 1)
    expect(young.here.size).toBe(0)
    link.close()
    await ended
    expect([...young.here.keys()]).toEqual(['a', 'b'])
    expect(pair.log.append(1, 'moved')).toBe(false)
    pair.log.close()
    for (const fd of young.here.values()) fd.close()
  })

  it('leave the other when the sender lives and has not decided; it cannot decide any more then', async () => {
    const before = open()
    const { link, young, ended, log } = loneReceiver()
    await prepare(link, 1, ['a', 'b'])
    await seen(() => acked.length === 1)
    link.close()
    await ended
    expect(young.here.size).toBe(0)
    expect(log.append(1, 'moved')).toBe(false)
    log.close()
    // No process has them: the descriptors are closed, and the peer sees that.
    expect(others.map(fd => native.receiveMessage(fd.raw, Buffer.alloc(1), 0, 1).bytes)).toEqual([0, 0])
    for (const fd of others.splice(0)) fd.close()
    expect(open()).toBe(before)
  })

  it('arrive without a warning when the sender ends before it has read the last acknowledgement', async () => {
    const { link, young, ended, log, told } = loneReceiver()
    link.channel.pause()
    await prepare(link, 1, ['a'])
    for (let turns = 0; turns < 20; turns++) await new Promise(resolve => setImmediate(resolve))
    expect([acked, log.append(1, 'moved')]).toEqual([[], true])
    link.close()
    await ended
    expect([...young.here.keys()]).toEqual(['a'])
    expect(told).toEqual([])
    log.close()
    for (const fd of young.here.values()) fd.close()
  })

  it('stay with the other when the sender has decided and its word was lost', async () => {
    const { link, young, ended, log } = loneReceiver()
    await prepare(link, 7, ['a'])
    await seen(() => acked.length === 1)
    expect(log.append(7, 'moved')).toBe(true)
    link.close()
    await ended
    expect([...young.here.keys()]).toEqual(['a'])
    log.close()
    for (const fd of young.here.values()) fd.close()
  })

  it('go no faster than the bound on the rate', async () => {
    const { sender, receiver, old, young, given } = way({ perSecond: 100 })
    fill(old, 120)
    receiver.start()
    const began = performance.now()
    sender.start()
    await seen(() => young.here.size === 120)
    expect(performance.now() - began).toBeGreaterThan(150)
    await seen(() => given.moved === 120)
    await sender.stop()
  })

  it('hold neither event loop for long, however slow each of them is', async () => {
    // Both are in this process. All of them in one turn would be 60 ms for either.
    const bound = 2 * TURN_MS + 14
    const [longest] = await leastOf(bound, async () => {
      const { sender, receiver, old, young } = way()
      fill(old, 60)
      old.slow = 1
      young.slow = 1
      const longest = await longestTurn(() => {
        receiver.start()
        sender.start()
        return seen(() => young.here.size === 60)
      })
      await sender.stop()
      return [longest]
    })
    expect(longest).toBeLessThan(bound)
  })

  it('move later when they could not at first and their server says that they can', async () => {
    const { sender, receiver, old, young } = way()
    receiver.start()
    sender.start()
    await seen(() => old.onMovable !== null)
    fill(old, 5)
    old.onMovable!()
    await seen(() => young.here.size === 5)
    await sender.stop()
  })

  it('stay when the other refuses them without a word: that is counted too', async () => {
    const { link, sender, old, given } = loneSender()
    fill(old, 3)
    link.start({
      message: ({ prepare }, fds) => {
        for (const fd of fds) fd.close()
        if (!prepare) return
        const refused = (prepare.connections ?? []).map((_, index) => ({ index }))
        link.post({ prepareAck: { slice: prepare.slice ?? 0, refused } })
      },
      broken() {},
      end() {},
    })
    sender.start()
    await seen(() => old.came.length === 3)
    expect(given.report).toMatchObject({ moved: 0, refused: { ERR_FDB_REFUSED: 3 } })
    await sender.stop()
    link.close()
  })

  it('reject a log that is none, or that another process has written or sealed', () => {
    const none = native.dup(0)
    const written = native.memfd('written')
    native.pwrite(written, Buffer.alloc(8), 0, 8, 0)
    const sealed = native.memfd('sealed')
    native.addSeals(sealed, SEAL_WRITE)
    for (const raw of [none, written, sealed]) {
      const fd = OwnedFd.own(raw, 'no log')
      expect(() => MoveLog.open(fd)).toThrow(expect.objectContaining({ code: 'ERR_FDB_MOVE_LOG' }))
      expect(fd.closed).toBe(true)
    }
  })

  it('go also where an acknowledgement of another slice refuses some', async () => {
    const { link, sender, old, given, ended } = loneSender()
    fill(old, 4)
    link.start({
      message: ({ prepare }, fds) => {
        closeAll(fds)
        if (!prepare) return
        const slice = prepare.slice ?? 0
        link.post({ prepareAck: { slice: slice + 1, refused: [{ index: 0, code: 'ERR_FDB_REFUSED' }] } })
        link.post({ prepareAck: { slice } })
      },
      broken() {},
      end() {},
    })
    sender.start()
    await seen(() => given.moved + old.came.length === 4)
    expect([given.moved, old.came]).toEqual([4, []])
    await sender.stop()
    await ended
    link.close()
  })

  it('close also if they were never looked at', async () => {
    const before = open()
    const { link, receiver, young, ended, log } = loneReceiver()
    let looked = 0
    young.refuses = () => {
      // Longer than a turn may last.
      busy(2 * TURN_MS)
      if (++looked === 1) setImmediate(() => void receiver.stop())
      return false
    }
    await prepare(link, 1, ['a', 'b', 'c', 'd'])
    await ended
    link.close()
    log.close()
    for (const fd of others.splice(0)) fd.close()
    await seen(() => open() === before)
    expect(looked).toBeLessThan(4)
    expect(young.here.size).toBe(0)
  })

  it('fill a slice only as far as a message has room for their descriptors', () => {
    const filler = new SliceFiller()
    const source = { listener: 'web', address: '', moving: new Hand() }
    const fds = Array.from({ length: MAX_CONNECTION_FDS }, () => others[0]!)
    while (!filler.isFull && filler.items.length < MAX_FDS_PER_MESSAGE)
      filler.add({ source, departure: { record: Buffer.alloc(0), fds } })
    expect(fdsOf(filler.items).length).toBeLessThanOrEqual(MAX_FDS_PER_MESSAGE)
    expect(fdsOf(filler.items).length).toBeGreaterThan(MAX_FDS_PER_MESSAGE - MAX_CONNECTION_FDS)
  })

  it('fail one by one if they differ from their announcement, and the rest goes on', async () => {
    const { link, young, ended, refusals, log } = loneReceiver()
    const [a, b] = native.socketPair()
    const fds = [OwnedFd.own(a, 'a'), OwnedFd.own(b, 'b')]
    await link.send(
      {
        prepare: {
          slice: 1,
          connections: [
            { listener: 'web', protocol: 'test/1', record: Buffer.from('good'), fds: 1 },
            { listener: 'web', protocol: 'test/2', record: Buffer.from('other protocol'), fds: 1 },
            { listener: 'web', protocol: 'test/1', record: Buffer.from('no descriptor'), fds: 0 },
            { listener: 'web', protocol: 'test/1', record: Buffer.from('missing'), fds: 3 },
          ],
        },
      },
      fds,
    )
    for (const fd of fds) fd.close()
    await seen(() => acked.length === 1)
    expect(refusals.map(({ index, code }) => [index, code])).toEqual([
      [1, 'ERR_FDB_NO_TARGET'],
      [2, 'ERR_FDB_FDS_MISSING'],
      [3, 'ERR_FDB_FDS_MISSING'],
    ])
    log.append(1, 'moved')
    await link.send({ moved: { slice: 1 } })
    await seen(() => young.here.size === 1)
    link.close()
    await ended
    for (const fd of young.here.values()) fd.close()
  })
})

/** A sender without a receiver; the test has the other end of its channel. */
function loneSender() {
  const { give, take, log } = movePair()
  const old = new Hand()
  const given = new MoveCounts()
  let over!: () => void
  const ended = new Promise<void>(resolve => (over = resolve))
  const sender = new ConnectionSender({
    link: new Link(new Channel(give)),
    log,
    sources: () => [{ listener: 'web', address: '', moving: old }],
    which: 'auto',
    drainMs: 60_000,
    firstWaveMs: 0,
    perSecond: Number.POSITIVE_INFINITY,
    counts: given,
    reportError() {},
    onEnded: over,
  })
  return { link: new Link(new Channel(take)), log, sender, old, given, ended }
}

let acked: number[] = []

function loneReceiver() {
  const young = new Hand()
  const pair = movePair()
  const link = new Link(new Channel(pair.give))
  const refusals: { index: number; code: string }[] = []
  acked = []
  link.start({
    message: ({ prepareAck }) => {
      if (!prepareAck) return
      acked.push(prepareAck.slice ?? 0)
      for (const { index, code } of prepareAck.refused ?? [])
        refusals.push({ index: index ?? 0, code: code ?? '' })
    },
    broken() {},
    end() {},
  })
  let over!: () => void
  const ended = new Promise<void>(resolve => (over = resolve))
  const told: string[] = []
  const receiver = new ConnectionReceiver({
    link: new Link(new Channel(pair.take)),
    log: MoveLog.open(pair.log.fd.dup()),
    sender: process.pid,
    target: (_listener, protocol) => (protocol === 'test/1' ? young : undefined),
    counts: new MoveCounts(),
    reportError: (_error, message) => void told.push(message),
    onEnded: over,
  })
  receiver.start()
  return { link, receiver, young, ended, log: pair.log, refusals, told }
}

async function prepare(link: Link, slice: number, names: readonly string[]): Promise<void> {
  const fds: OwnedFd[] = []
  for (const name of names) {
    const [a, b] = native.socketPair()
    fds.push(OwnedFd.own(a, name))
    others.push(OwnedFd.own(b, name))
  }
  await link.send(
    {
      prepare: {
        slice,
        connections: names.map(name => ({
          listener: 'web',
          protocol: 'test/1',
          record: Buffer.from(name),
          fds: 1,
        })),
      },
    },
    fds,
  )
  for (const fd of fds) fd.close()
}

describe('the log of a move', () => {
  it('says of each slice what was written of it, and nothing of others', () => {
    using log = MoveLog.create()
    for (let slice = 1; slice <= 2_000; slice++) log.append(slice, slice % 3 === 0 ? 'back' : 'moved')
    expect(log.read(3)).toBe('back')
    expect(log.read(1)).toBe('moved')
    expect(log.read(2_000)).toBe('moved')
    expect(log.read(2_001)).toBe('nothing')
  })

  it('takes no more once it is sealed', () => {
    using log = MoveLog.create()
    expect(log.append(1, 'moved')).toBe(true)
    log.seal()
    log.seal()
    expect(log.append(2, 'moved')).toBe(false)
    expect(log.read(1)).toBe('moved')
    expect(log.read(2)).toBe('nothing')
  })

  it('must be empty, unsealed, and a memory file', async () => {
    const written = MoveLog.create()
    written.append(1, 'moved')
    expect(() => MoveLog.open(written.fd.dup())).toThrow(/empty memory file/)
    const sealed = MoveLog.create()
    sealed.seal()
    expect(() => MoveLog.open(sealed.fd.dup())).toThrow(/empty memory file/)
    const server = net.createServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    const [a, b] = native.socketPair()
    OwnedFd.own(b, 'b').close()
    expect(() => MoveLog.open(OwnedFd.own(a, 'a'))).toThrow(/empty memory file/)
    server.close()
    written.close()
    sealed.close()
  })
})
