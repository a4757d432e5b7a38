import { spawn } from 'node:child_process'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { ForwardedWrites, MOST_AUTHORS } from '../../../src/daemon/service/forwarded-writes.js'
import { UserQuotas } from '../../../src/daemon/user-quotas.js'
import type { Caller } from '../../../src/holder/admission.js'
import type { Peer } from '../../../src/holder/peer.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { openPidfd } from '../../../src/os/liveness.js'
import { identify, type ProcessIdentity } from '../../../src/os/process-identity.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { FORWARDS_WRITES, Link, type LinkHandler, type WireBody } from '../../../src/wire/link.js'
import { MOST_WORKERS } from '../../../src/workers/options.js'
import { callerWith, linked, peerWith } from '../../holder-support/processes.js'
import { channelPair } from '../../processes/channel-pair.js'
import { until } from '../../processes/until.js'

const { Envelope } = fdbroker.wire
const { Outcome } = fdbroker.wire.Written
type Write = fdbroker.wire.Write.$Properties

/** A member that writes, its answers left out. */
interface Member {
  readonly peer: Peer
  readonly link: { readonly channel: { crowded: boolean } }
  /** Pieces of changes. */
  readonly got: Write[]
  /** Writes that the source is told. */
  readonly told: Write[]
}

describe('a generation that drains, to a daemon that was started anew', () => {
  it('keeps its rights while it stands by, and gives them up when it leaves', async () => {
    const [ours, theirs] = channelPair()
    const identity = identify(process.pid)
    const gaveUp: ProcessIdentity[] = []
    const writes = new ForwardedWrites({
      name: 'shop',
      logger: SILENT,
      state: { segmentSet: new SegmentSet(), exists: () => true, most: () => 2 ** 30 },
      writer: { peer: () => undefined, members: () => ({ isSilent: () => false, has: () => false }) },
      events: {
        onGivenUp: process => gaveUp.push(process),
        moveConnections: () => {},
        onReport: () => {},
        changed: () => {},
      },
    })
    const hello = { capabilities: [FORWARDS_WRITES] }
    writes.add(callerWith({ hello, intent: 'draining', link: new Link(ours), identity }), {}, true)
    const generation = new Link(theirs)
    const answered: number[] = []
    generation.start({
      message: ({ written }) => {
        if (written) answered.push(written.number ?? 0)
      },
      broken: () => {},
      end: () => {},
    })
    const say = (report: string) => generation.post({ heartbeat: { healthy: true, report } })
    /** Earlier messages have arrived. */
    const heard = (number: number) => {
      generation.post({ write: { number, request: 'a' } })
      return until(`${number} is answered`, () => answered.includes(number))
    }
    for (const report of ['', 'no report', 'null', '{"phase":"standby"}', '{"phase":"serving"}']) say(report)
    await heard(1)
    expect(gaveUp).toEqual([])
    say('{"phase":"leaving"}')
    await heard(2)
    expect(gaveUp).toEqual([identity])
    writes.close()
    generation.close()
  })
})

describe('an order to end the older generations', () => {
  /** A daemon's side of a service whose writer the test exchanges. */
  function service() {
    const writers = [peerWith({ pid: 1 }), peerWith({ pid: 2 })] as const
    let writer: Peer = writers[0]
    const moved: number[] = []
    const writes = new ForwardedWrites({
      name: 'shop',
      logger: SILENT,
      state: { segmentSet: new SegmentSet(), exists: () => true, most: () => 2 ** 30 },
      writer: { peer: () => writer, members: () => ({ isSilent: () => false, has: () => false }) },
      events: {
        onGivenUp: () => {},
        moveConnections: ({ hello }) => moved.push(hello.generation!),
        onReport: () => {},
        changed: () => {},
      },
    })
    onTestFinished(() => writes.close())
    /** Connects a generation that asks for a move. Resolves with the times within which it must end. */
    const times = async (generation: number) => {
      const { link, far, heard } = linked()
      const hello = { capabilities: [FORWARDS_WRITES], generation }
      writes.add(callerWith({ hello, intent: 'draining', link }), {}, true)
      far.post({ moveRequest: {} })
      const isAnswered = () => moved.includes(generation) || heard.some(({ moveRequest }) => moveRequest)
      await until('it has an answer', isAnswered)
      return heard.flatMap(({ endDrain }) => endDrain?.timeoutMs ?? [])
    }
    const next = () => {
      writer = writers[1]
      writes.writerChanged()
    }
    return { writes, moved, times, next }
  }

  it('counts for those that connect while the member serves that was stopped, and not when another one serves', async () => {
    const { writes, moved, times, next } = service()
    expect(await times(1)).toEqual([])
    writes.endDraining(60_000)
    writes.writerChanged()
    expect(await times(2)).toHaveLength(1)
    next()
    expect(await times(3)).toEqual([])
    writes.endDraining(5_000)
    const [ms] = await times(4)
    expect(ms).toBeLessThanOrEqual(5_000)
    expect(moved).toEqual([1, 3])
  })
})

describe('a generation that drains and loses its connection', () => {
  /** A process that lives until the test ends it. */
  function sleeper() {
    const child = spawn('sleep', ['60'], { stdio: 'ignore' })
    const end = () => void child.kill('SIGKILL')
    onTestFinished(end)
    const pid = child.pid!
    return { pid, identity: identify(pid), end }
  }

  /** A daemon's side of one service, and the processes that drain there. */
  function service(draining: readonly ProcessIdentity[] = [], members: readonly number[] = []) {
    const writes = new ForwardedWrites({
      name: 'shop',
      draining,
      logger: SILENT,
      state: { segmentSet: new SegmentSet(), exists: () => true, most: () => 2 ** 30 },
      writer: {
        peer: () => undefined,
        members: () => ({ isSilent: () => false, has: ({ pid }) => members.includes(pid) }),
      },
      events: { onGivenUp: () => {}, moveConnections: () => {}, onReport: () => {}, changed: () => {} },
    })
    onTestFinished(() => writes.close())
    /** Connects a generation, which says these phases, and leaves. */
    const visit = async (pid: number, phases: readonly string[]) => {
      const { link, far } = linked()
      const pidfd = openPidfd(pid)
      const hello = { capabilities: [FORWARDS_WRITES], generation: 1 }
      const facts = { pid, identity: identify(pid), proven: true, link, hello, intent: 'draining' } as const
      writes.add(callerWith({ ...facts, pidfd: pidfd instanceof OwnedFd ? pidfd : null }), {}, true)
      for (const phase of phases) {
        const report = JSON.stringify({ generation: 1, phase, connections: 1 })
        far.post({ heartbeat: { healthy: true, report } })
      }
      far.close()
      await until('its connection has ended', () => !link.open)
    }
    return { writes, visit, pids: () => writes.draining.map(({ pid }) => pid) }
  }

  it('drains until its process has ended, whether it connects again or not, and leaves no descriptor', async () => {
    const { pid, end } = sleeper()
    const { visit, pids } = service()
    const before = native.openCount()
    await visit(pid, ['leaving'])
    expect(pids()).toEqual([pid])
    await visit(pid, [])
    expect(pids()).toEqual([pid])
    end()
    await until('it drains no more', () => pids().length === 0)
    await until('no descriptor is left', () => native.openCount() === before)
  })

  it('drains no more after it has said that it is gone or has retired', async () => {
    const { visit, pids } = service()
    await visit(sleeper().pid, ['leaving', 'gone'])
    await visit(sleeper().pid, ['retired'])
    expect(pids()).toEqual([])
  })

  it('drains no more when it is a member again: it serves after a rollback', async () => {
    const { pid } = sleeper()
    const { visit, pids } = service([], [pid])
    await visit(pid, ['leaving'])
    expect(pids()).toEqual([])
  })

  it('drains, for the next daemon, before it connects there', async () => {
    const { pid, identity, end } = sleeper()
    const { visit, writes } = service()
    await visit(pid, [])
    const next = service(writes.draining.map(each => each.identity))
    expect(next.pids()).toEqual([pid])
    await next.visit(pid, ['gone'])
    expect(next.pids()).toEqual([])
    const last = service([identity])
    end()
    await until('it drains no more', () => last.pids().length === 0)
  })

  it('drains, if it is another user’s, while its user has not used up its share with others', async () => {
    const { pids, writes } = service()
    // The share is 4 descriptors, and each process takes two.
    const foreignUser = new UserQuotas(64).foreignUserOf(12_001)!
    const [ours, theirs] = channelPair({ foreignUser })
    onTestFinished(async () => void (await Promise.all([ours.close(), theirs.close()])))
    const link = new Link(ours)
    const lost = Array.from({ length: 5 }, () => sleeper())
    for (const { pid, identity } of lost) {
      const opened = openPidfd(pid)
      const pidfd = opened instanceof OwnedFd ? opened : null
      writes.noteLost({ pid, identity, proven: true, pidfd, link })
      pidfd?.close()
    }
    expect(pids()).toEqual(lost.slice(0, 2).map(({ pid }) => pid))
    writes.close()
    await until('the user has its share again', () => foreignUser.fds.count === 0)
  })

  it('drains no more for a daemon that cannot see its end, or whose own process it is', () => {
    const { pids } = service([{ pid: 7 }, identify(process.pid)])
    expect(pids()).toEqual([])
  })
})

describe('those that follow a service', () => {
  it('may be twice as many as there are workers, and who would be one more is told so, with the limit; the log says it once', () => {
    const logged: unknown[] = []
    const logger = { ...SILENT, warn: (facts: object) => void logged.push(facts) }
    const writes = new ForwardedWrites({
      name: 'shop',
      logger,
      state: { segmentSet: new SegmentSet(), exists: () => true, most: () => 2 ** 30 },
      writer: { peer: () => undefined, members: () => ({ isSilent: () => false, has: () => false }) },
      events: { onGivenUp: () => {}, moveConnections: () => {}, onReport: () => {}, changed: () => {} },
    })
    const told: WireBody[] = []
    const follower = () => {
      const send = (body: WireBody) => Promise.resolve(void told.push(body))
      const link = { channel: { unref() {} }, start() {}, send, post() {}, close() {} }
      const hello = { service: 'shop', capabilities: [FORWARDS_WRITES] }
      writes.add(
        { hello, intent: 'follow', link, pid: 7, uid: 0, pidfd: null } as unknown as Caller,
        {},
        true,
      )
    }
    expect(MOST_AUTHORS).toBeGreaterThan(2 * MOST_WORKERS)
    for (let n = 0; n < MOST_AUTHORS; n++) follower()
    expect(told.filter(({ welcome }) => welcome)).toHaveLength(MOST_AUTHORS)
    for (const _again of [1, 2]) follower()
    const refused = told.slice(MOST_AUTHORS).map(({ reject }) => reject)
    expect(refused).toHaveLength(2)
    for (const reject of refused) {
      expect(reject).toMatchObject({ code: 'ERR_FDB_SERVICE_LIMIT', retryable: false })
      expect(reject?.message).toContain(
        `${MOST_AUTHORS} processes that follow the state of the service "shop"`,
      )
    }
    expect(logged).toMatchObject([{ service: 'shop', err: { code: 'ERR_FDB_SERVICE_LIMIT' } }])
    writes.close()
  })
})

describe('a change that is forwarded in several pieces', () => {
  /** A daemon, the members that write in turn, and authors of changes. */
  function daemon() {
    const member = (pid: number): Member => {
      const got: Write[] = []
      const told: Write[] = []
      const link = {
        open: true,
        channel: { crowded: false },
        send: ({ write }: WireBody) => Promise.resolve(void got.push(write!)),
        post: ({ write }: WireBody) => void told.push(write!),
      }
      return {
        got,
        told,
        link,
        peer: { pid, link, capabilities: new Set([FORWARDS_WRITES]) } as unknown as Peer,
      }
    }
    const members: [Member, Member] = [member(1), member(2)]
    let writer: Member | undefined = members[0]
    const silent = new Set<Peer>()
    const writes = new ForwardedWrites({
      name: 'shop',
      logger: SILENT,
      state: { segmentSet: new SegmentSet(), exists: () => true, most: () => 2 ** 30 },
      writer: {
        peer: () => writer?.peer,
        members: () => ({ isSilent: peer => silent.has(peer), has: () => false }),
      },
      events: { onGivenUp: () => {}, moveConnections: () => {}, onReport: () => {}, changed: () => {} },
    })
    onTestFinished(() => writes.close())
    const author = () => {
      const told: [number, unknown][] = []
      let handler!: LinkHandler
      const link = {
        closed: false,
        channel: { unref() {} },
        start: (given: LinkHandler) => {
          handler = given
        },
        send: () => Promise.resolve(),
        post: ({ written }: WireBody) => void (written && told.push([written.number!, written.outcome])),
        close: () => {
          link.closed = true
        },
      }
      const hello = { service: 'shop', capabilities: [FORWARDS_WRITES] }
      writes.add(
        {
          hello,
          intent: 'draining',
          link,
          pid: 7,
          identity: { pid: 7 },
          uid: 0,
          pidfd: null,
        } as unknown as Caller,
        {},
        true,
      )
      const piece = (number: number, more: boolean) =>
        handler.message(Envelope.create({ write: { number, request: `r${number}`, parts: [], more } }), [])
      return { told, link, piece, leave: () => handler.end(null) }
    }
    const answer = (member: Member, number: number, outcome: number) =>
      writes.handle(member.peer, Envelope.create({ written: { number, outcome } }))
    const serve = (member: Member | undefined) => {
      writer = member
    }
    return { writes, members, author, answer, serve, silent }
  }

  it('stays back whole where the way is full for its beginning, with everything behind it', () => {
    const { members, author } = daemon()
    const [member] = members
    const one = author()
    member.link.channel.crowded = true
    one.piece(1, true)
    member.link.channel.crowded = false
    one.piece(1, false)
    // The piece would be made before the first.
    one.piece(2, false)
    expect(member.got).toEqual([])
    expect(one.told).toEqual([
      [1, Outcome.AGAIN],
      [2, Outcome.AGAIN],
    ])
    const anew = author()
    anew.piece(3, true)
    anew.piece(3, false)
    expect(member.got.map(({ number, more }) => [number, more])).toEqual([
      [1, true],
      [1, false],
    ])
  })

  it('returns from the member where the way is full in its middle', () => {
    const { members, author } = daemon()
    const [member] = members
    const one = author()
    one.piece(1, true)
    member.link.channel.crowded = true
    one.piece(1, false)
    expect([one.told, member.told]).toEqual([[[1, Outcome.AGAIN]], [{ number: 1, source: 1 }]])
    expect(member.got).toHaveLength(1)
  })

  it('has no rest where the member refuses it before it is whole: that is no other change', () => {
    const { members, author, answer } = daemon()
    const [member] = members
    const one = author()
    one.piece(1, true)
    answer(member, 1, Outcome.REFUSED)
    one.piece(1, true)
    one.piece(1, false)
    one.piece(2, false)
    answer(member, 2, Outcome.APPLIED)
    expect(one.told).toEqual([
      [1, Outcome.REFUSED],
      [2, Outcome.APPLIED],
    ])
    expect(member.got.map(({ number, request }) => [number, request])).toEqual([
      [1, 'r1'],
      [2, 'r2'],
    ])
    // The member knows that no more of it comes.
    expect(member.told).toEqual([{ number: 1, source: 1 }])
  })

  it('goes out again when another member writes, where the one that has it hangs, and only there', () => {
    const { writes, members, author, serve, silent } = daemon()
    const one = author()
    one.piece(1, false)
    silent.add(members[0].peer)
    writes.writerChanged()
    expect(one.told).toEqual([])
    serve(members[1])
    silent.clear()
    writes.writerChanged()
    expect(one.told).toEqual([])
    silent.add(members[0].peer)
    writes.writerChanged()
    expect(one.told).toEqual([[1, Outcome.AGAIN]])
  })

  it('does not go on with the next member where the one that has its beginning is lost', () => {
    const { members, author, serve, writes } = daemon()
    const [first, second] = members
    const one = author()
    one.piece(1, true)
    writes.forget(first.peer)
    serve(second)
    one.piece(1, false)
    expect([one.told, second.got]).toEqual([[[1, Outcome.AGAIN]], []])
  })

  it('does not begin with a member that comes to write in its middle', () => {
    const { members, author, serve } = daemon()
    serve(undefined)
    const one = author()
    one.piece(1, true)
    serve(members[0])
    one.piece(1, false)
    expect([one.told, members[0].got]).toEqual([[[1, Outcome.AGAIN]], []])
  })

  it('returns where its author leaves; an author that begins many and ends none has to leave', () => {
    const { members, author, answer } = daemon()
    const [member] = members
    const one = author()
    one.piece(1, true)
    one.leave()
    expect(member.told).toEqual([{ number: 1, source: 1 }])
    const other = author()
    for (let number = 1; number <= 64; number++) {
      other.piece(number, true)
      answer(member, member.got.at(-1)!.number!, Outcome.REFUSED)
    }
    expect(other.link.closed).toBe(false)
    other.piece(65, true)
    answer(member, member.got.at(-1)!.number!, Outcome.REFUSED)
    expect(other.link.closed).toBe(true)
  })

  it('has its answer from the member that has it, and from no other', () => {
    const { members, author, answer } = daemon()
    const [first, second] = members
    const one = author()
    one.piece(1, false)
    const { number } = first.got[0]!
    answer(second, number!, Outcome.APPLIED)
    expect(one.told).toEqual([])
    answer(first, number!, Outcome.APPLIED)
    expect(one.told).toEqual([[1, Outcome.APPLIED]])
  })
})
