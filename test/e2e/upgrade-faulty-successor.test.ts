import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, it, onTestFinished } from 'vitest'
import { closeAll } from '../../src/kernel/index.js'
import type { BundleItem } from '../../src/wire/bundle.js'
import { Channel } from '../../src/wire/channel.js'
import { encodeFrame } from '../../src/wire/frame.js'
import { Link, type WireBody, type WireEnvelope } from '../../src/wire/link.js'
import { Segment } from '../fixtures/state.js'
import { holdPage } from '../processes/held-page.js'
import { signalPid } from '../processes/launch.js'
import { hello, packed, RawPeer } from '../processes/raw-peer.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const TIMES = { probation: 60_000, heartbeat: 50, ready: 5_000 }

async function stage() {
  const scene = Scene.open({ upgrade: TIMES })
  const first = await scene.serve()
  const { sequence, digest } = (await scene.status()).state
  return { scene, first, position: { epoch: 1, sequence, digest } }
}

/** A successor whose messages are the test's. The successor has all that it needs, and has said that it is ready. */
async function successor(scene: Scene) {
  const peer = await RawPeer.connect(scene.control)
  const told = (what: string, holds: (envelope: WireEnvelope) => unknown) =>
    until(what, () => peer.heard.find(envelope => holds(envelope)))
  peer.say(hello('JOIN', 'shop', 2))
  await told('all is with it', ({ fds }) => fds?.last)
  for (const { fds } of peer.heard)
    if (fds) peer.say({ fdsAck: { bundle: fds.bundle ?? 0, index: fds.index ?? 0 } })
  peer.say({ ready: { adopted: [], refused: [] } })
  await told('the incumbent has stopped', ({ sealed }) => sealed)
  return { peer, told }
}

describe('a successor that does not keep to the protocol', () => {
  it('having read another state than the incumbent has, is turned away', async () => {
    const { scene, first, position } = await stage()
    const { peer, told } = await successor(scene)
    peer.say({ prepared: { position: { ...position, digest: 'another' } } })
    const { abort } = await told('it is turned away', envelope => envelope.abort)
    expect(abort).toMatchObject({ code: 'ERR_FDB_DIGEST', message: expect.stringContaining('another') })
    expect(await scene.status()).toMatchObject({
      pid: first.pid,
      lastFailure: { phase: 'preparing', code: 'ERR_FDB_DIGEST' },
    })
    await first.order('put', { key: 'still', value: { item: 'writes' } })
  })

  it('leaving while the other stands by, brings that one back, which says why', async () => {
    const { scene, first, position } = await stage()
    const { peer, told } = await successor(scene)
    peer.say({ prepared: { position } })
    const { commit } = await told('it may serve', envelope => envelope.commit)
    peer.say({ serving: { epoch: commit?.epoch ?? 0 } })
    await first.says('retiring')
    peer.say({ gone: {} })
    await first.says('reinstated')
    expect(await scene.status()).toMatchObject({
      pid: first.pid,
      lastFailure: { phase: 'probation', code: 'ERR_FDB_SUCCESSOR_LEFT' },
    })
    await first.order('put', { key: 'still', value: { item: 'writes' } })
  })

  it('dead while somebody else holds its channel open, is seen to be dead', async () => {
    const { scene, first } = await stage()
    const frame = encodeFrame(Buffer.from(packed(hello('JOIN', 'shop', 2))), 0)
    // The connection outlives it, in the hands of a process that knows nothing of it.
    const program = `
      const socket = require('node:net').connect(process.argv[1]).pause()
      socket.on('connect', () => {
        socket.write(Buffer.from(process.argv[2], 'base64'))
        const stdio = ['ignore', 'ignore', 'ignore', socket._handle.fd]
        console.log(require('node:child_process').spawn('sleep', ['60'], { stdio, detached: true }).pid)
      })
      setInterval(() => {}, 60_000)`
    const args = ['-e', program, scene.control, Buffer.from(frame).toString('base64')]
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] })
    const keeper = Number(String((await once(child.stdout, 'data'))[0]))
    onTestFinished(() => signalPid(keeper, 'SIGKILL'))
    await scene.statusWhere('it is offered all', ({ phase }) => phase === 'offering')
    child.kill('SIGKILL')
    expect(
      await scene.statusWhere('its death is seen', ({ lastFailure }) => lastFailure !== null),
    ).toMatchObject({
      pid: first.pid,
      lastFailure: { phase: 'offering', code: 'ERR_FDB_SUCCESSOR_DIED' },
    })
  })
})

/** A successor that keeps the descriptors that it gets, until the test ends. */
async function keeper(scene: Scene) {
  const link = new Link(await Channel.connect(scene.control))
  const items: BundleItem[] = []
  onTestFinished(() => {
    link.close()
    closeAll(items.map(({ fd }) => fd))
  })
  const heard: WireEnvelope[] = []
  link.start({
    message: (envelope, fds) => {
      closeAll(fds)
      heard.push(envelope)
    },
    bundle: got => void items.push(...got),
    broken: () => {},
    end: () => {},
  })
  const told = <T>(what: string, find: (envelope: WireEnvelope) => T | null | undefined) =>
    until(what, () => heard.map(find).find(found => found))
  return { say: (body: WireBody) => link.post(body), heard, told, items }
}

describe('a version that joins while a rollback is under way', () => {
  it('waits until the previous version serves again, and gets its offer', async () => {
    const { scene, first, position } = await stage()
    const failing = await keeper(scene)
    failing.say(hello('JOIN', 'shop', 2))
    const { epoch } = await failing.told('the segments are offered', ({ offer }) => offer)
    const segment = await until('it has its segment', () =>
      failing.items.find(item => item.role === 'segment' && item.epoch === epoch),
    )
    // The previous version cannot seal it meanwhile.
    const read = Segment.open(segment.fd.dup())
    const held = await holdPage(read, 'sys.stdin.read()')
    read.close()
    failing.say({ ready: { adopted: [], refused: [] } })
    await failing.told('the incumbent has stopped', ({ sealed }) => sealed)
    failing.say({ prepared: { position } })
    await failing.told('it may serve', ({ commit }) => commit)
    failing.say({ serving: { epoch: epoch! } })
    failing.say({ gone: {} })
    await until('the previous version takes over again', async () => {
      const { lastFailure } = await scene.status()
      return lastFailure?.phase === 'probation'
    })
    const next = await keeper(scene)
    next.say(hello('JOIN', 'shop', 2))
    // An answer to a later connection shows that the previous version has read the Hello.
    await scene.status()
    await held.end()
    await next.told('it hears', ({ offer, reject }) => offer ?? reject)
    expect(next.heard.flatMap(({ reject }) => reject?.message ?? [])).toEqual([])
    expect((await scene.status()).pid).toBe(first.pid)
  })
})
