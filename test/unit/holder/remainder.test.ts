import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { MoveCounts } from '../../../src/connections/counts.js'
import { MAX_RECORD_BYTES } from '../../../src/connections/movable.js'
import { MoveLog } from '../../../src/connections/move-log.js'
import { ConnectionReceiver } from '../../../src/connections/receiver.js'
import { type HandlerContext, handleMessage } from '../../../src/holder/message-handler.js'
import type { Peer } from '../../../src/holder/peer.js'
import { type Candidate, Peers } from '../../../src/holder/peers.js'
import { resolveTimes } from '../../../src/holder/times.js'
import { memoryFile } from '../../../src/kernel/index.js'
import { ownPidfd } from '../../../src/os/liveness.js'
import { identify } from '../../../src/os/process-identity.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { Link, type LinkHandler, type WireBody, type WireEnvelope } from '../../../src/wire/link.js'
import { openDescriptors } from '../../fixtures/open-descriptors.js'
import { untyped } from '../../fixtures/untyped.js'
import { channelPair } from '../../processes/channel-pair.js'

describe('a taker of connections', () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] }))
  afterEach(() => void vi.useRealTimers())

  function receiver() {
    const before = openDescriptors()
    const [ours, theirs] = channelPair()
    const heard: WireEnvelope[] = []
    const sender = new Link(theirs)
    sender.start({ message: envelope => heard.push(envelope), broken: () => {}, end: () => {} })
    let over = false
    const taking = new ConnectionReceiver({
      link: new Link(ours),
      log: MoveLog.create(),
      sender: ownPidfd()!,
      target: () => ({ check: () => {}, arrive: () => {} }) as never,
      counts: new MoveCounts(),
      reportError: () => {},
      onEnded: () => {
        over = true
      },
    })
    taking.start()
    const turns = async () => {
      for (let i = 0; i < 30; i++) await new Promise(resolve => setImmediate(resolve))
    }
    return { before, sender, heard, turns, over: () => over }
  }

  const connection = (fds: number, record = Buffer.from('a')) => ({
    listener: 'web',
    protocol: 'http',
    record,
    fds,
  })

  it('waits 5 s for the decision of a giver that lives, then lets go of all that it had', async () => {
    const { before, sender, heard, turns, over } = receiver()
    using fd = memoryFile('a', 'a')
    await sender.send({ prepare: { slice: 1, connections: [connection(1)] } }, [fd])
    await turns()
    expect(heard.filter(({ prepareAck }) => prepareAck)).toHaveLength(1)
    await vi.advanceTimersByTimeAsync(4_900)
    await turns()
    expect(over()).toBe(false)
    await vi.advanceTimersByTimeAsync(200)
    await turns()
    expect(over()).toBe(true)
    sender.close()
    fd.close()
    expect(openDescriptors()).toBe(before)
  })

  it('refuses a connection whose record is too large, and takes the others', async () => {
    const { sender, heard, turns } = receiver()
    using fd = memoryFile('a', 'a')
    const large = connection(1, Buffer.alloc(MAX_RECORD_BYTES + 1))
    await sender.send({ prepare: { slice: 1, connections: [large, connection(1)] } }, [fd, fd])
    await turns()
    expect(heard.find(({ prepareAck }) => prepareAck)?.prepareAck?.refused).toMatchObject([
      { index: 0, code: 'ERR_FDB_CONNECTION' },
    ])
    sender.close()
    await turns()
    await vi.advanceTimersByTimeAsync(200)
  })
})

describe('the times of a handoff', () => {
  it('take nobody for silent who is late by one heartbeat', () => {
    expect(() => resolveTimes({ heartbeat: 100, silence: 200 })).toThrow(/more than twice/)
    expect(resolveTimes({ heartbeat: 100, silence: 201 })).toMatchObject({ silence: 201 })
  })
})

describe('a heartbeat', () => {
  const heard = (heartbeat: NonNullable<WireBody['heartbeat']>) =>
    fdbroker.wire.Envelope.decode(fdbroker.wire.Envelope.encode({ heartbeat }).finish())

  it('counts for the life of a process, and not for its health if it says that the process is not well', () => {
    const context = untyped<HandlerContext>({ host: {} })
    const peer = { heartbeatAt: 0, healthyAt: 0, healthy: true } as Peer
    handleMessage(context, peer, heard({ healthy: false, unwell: 'no disk' }), [])
    expect(peer).toMatchObject({ healthy: false, healthyAt: 0, healthProblem: 'no disk' })
    expect(peer.heartbeatAt).toBeGreaterThan(0)
    handleMessage(context, peer, heard({ healthy: true }), [])
    expect(peer.healthyAt).toBe(peer.heartbeatAt)
  })
})

describe('a successor that is ready', () => {
  it('has adopted also what was registered after its Offer, which its Ready may not name', () => {
    const peer = { lateNames: new Set(['late']) } as Peer
    const context = untyped<HandlerContext>({ host: { dispatch() {} } })
    const ready = fdbroker.wire.Envelope.decode(
      fdbroker.wire.Envelope.encode({ ready: { adopted: ['web'], refused: ['old'] } }).finish(),
    )
    handleMessage(context, peer, ready, [])
    expect([[...peer.adopted].sort(), [...peer.refused]]).toEqual([['late', 'web'], ['old']])
  })
})

describe('a member that comes back over another channel', () => {
  function link() {
    let handler!: LinkHandler
    const made = {
      open: true,
      channel: {},
      start: (given: LinkHandler) => {
        handler = given
      },
      close: () => {
        made.open = false
      },
    }
    return { made: made as unknown as Link, end: () => handler.end(null) }
  }

  it('hears nothing before it has said Back, and the end of its former channel is no news', () => {
    const heard: string[] = []
    const peers = new Peers({
      handler: {
        message: () => {},
        bundle: () => {},
        lost: () => heard.push('lost'),
        replaced: () => heard.push('replaced'),
        died: () => {},
        forgotten: () => {},
      },
      logger: SILENT,
    })
    onTestFinished(() => peers.close())
    const candidate = (of: Link): Candidate => ({
      link: of,
      pid: process.pid,
      generation: 1,
      identity: identify(process.pid),
      proven: false,
      pidfd: null,
    })
    const [first, second] = [link(), link()]
    const peer = peers.add(candidate(first.made))!
    peer.holds = true
    expect(peers.reachable).toEqual([peer])
    peers.readmit(candidate(second.made))
    expect(peers.reachable).toEqual([])
    first.end()
    expect(heard).toEqual(['replaced'])
  })
})
