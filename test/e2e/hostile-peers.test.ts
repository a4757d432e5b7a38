import { readdirSync } from 'node:fs'
import { describe, expect, it, onTestFinished } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import type { DaemonStatus } from '../../src/operator/status-report.js'
import type { WireEnvelope } from '../../src/wire/link.js'
import { perLane } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { startDaemon } from '../processes/daemon.js'
import { hello, RawPeer } from '../processes/raw-peer.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const TIMES = { probation: 0, heartbeat: 50, ready: 5_000 }

function openFds({ pid }: { pid: number }): number {
  return readdirSync(`/proc/${pid}/fd`).length
}

async function fdsAreBackTo(count: number, app: App): Promise<void> {
  await until(
    `process ${app.pid} has ${count} descriptors again`,
    () => openFds(app) <= count,
    8_000,
    () => `${openFds(app)} now`,
  )
}

async function leaves(scene: Scene, app: App, attack: (peer: RawPeer) => unknown, times = perLane(8, 20)) {
  await scene.status()
  const before = openFds(app)
  for (let i = 0; i < times; i++) {
    const peer = await RawPeer.connect(scene.control)
    await attack(peer)
    await Promise.race([peer.ended, scene.status()])
    peer.leave()
  }
  expect(app.ended, app.output.slice(-2_000)).toBe(false)
  expect((await scene.status()).pid).toBe(app.pid)
  await fdsAreBackTo(before, app)
}

describe('a peer that breaks the protocol leaves the serving process as it was', () => {
  it('when a Hello follows a message that was refused, in one write', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const app = await scene.serve()
    await leaves(scene, app, peer => peer.say({ gone: {} }, hello('JOIN')))
    await leaves(scene, app, peer => peer.say(Buffer.from([0xff]), hello('JOIN')))
    await leaves(scene, app, peer => peer.say(hello('JOIN', 'other'), hello('JOIN')))
    await leaves(scene, app, peer => peer.say({ gone: {} }, hello('DRAINING')))
    expect((await scene.status()).lastFailure).toBe(null)
  })

  it('when it joins and leaves at once, or lives on after it was turned away', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const app = await scene.serve()
    await leaves(scene, app, peer => peer.say(hello('JOIN'), { abort: { code: 'ERR_FDB_CHECK' } }), 30)
  })

  it('when it joins again and again while another is joining: the record of handoffs is kept', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    await scene.serve()
    const handoffs = async () => (await scene.status()).handoffs
    await (await scene.start({ check: 'throw' })).failure()
    const joining = await RawPeer.connect(scene.control)
    joining.say(hello('JOIN'))
    await until('it is offered', () => joining.heard.some(({ offer }) => offer))
    for (let i = 0; i < 20; i++) {
      const other = await RawPeer.connect(scene.control)
      other.say(hello('JOIN'))
      await other.ended
      expect(other.heard.at(-1)?.reject?.code).toBe('ERR_FDB_BUSY')
    }
    joining.say({ abort: { code: 'ERR_FDB_CHECK' } })
    joining.leave()
    const record = await until('both are recorded', async () => {
      const records = await handoffs()
      return records[1]?.outcome === 'failed' ? records : null
    })
    expect(record.map(({ successor, outcome }) => [successor === process.pid, outcome])).toEqual([
      [false, 'failed'],
      [true, 'failed'],
    ])
  })

  it('when it reports to a daemon what fits into no message, or cannot be written: operators get the rest of the status', async () => {
    const scene = Scene.open({ upgrade: TIMES, hosting: 'daemon' })
    const daemon = await startDaemon(scene, { upgrade: TIMES })
    const long = JSON.stringify({ details: { much: 'x'.repeat(6 * 1024 * 1024) } })
    const deep = `{"details":{"[":${'['.repeat(10_000)}${']'.repeat(10_000)}}}`
    const serve = async (service: string, report: string) => {
      const peer = await RawPeer.connect(scene.control)
      const told = (what: string, holds: (envelope: WireEnvelope) => unknown) =>
        until(what, () => peer.heard.find(envelope => holds(envelope)))
      peer.say(hello('JOIN', service))
      await told('all is with it', ({ fds }) => fds?.last)
      for (const { fds } of peer.heard)
        if (fds) peer.say({ fdsAck: { bundle: fds.bundle ?? 0, index: fds.index ?? 0 } })
      peer.say({ ready: { adopted: [], refused: [] } })
      await told('it is sealed', ({ sealed }) => sealed)
      peer.say({ prepared: {} })
      const { commit } = await told('it may serve', envelope => envelope.commit)
      peer.say({ serving: { epoch: commit?.epoch ?? 0 } })
      let answered = 0
      const timer = setInterval(() => {
        const asked = peer.heard.filter(({ statusRequest }) => statusRequest).length
        for (; answered < asked; answered++) peer.say({ status: { json: report } })
      }, 10)
      onTestFinished(() => {
        clearInterval(timer)
        peer.leave()
      })
    }
    const names = ['first', 'second', 'third', 'deep']
    for (const name of names) await serve(name, name === 'deep' ? deep : long)
    using client = await OperatorClient.connect(scene.control)
    const whole = await until('one of the reports, which must come within a second, is shown', async () => {
      const { services } = (await client.status()) as DaemonStatus
      expect(services.map(({ service, phase }) => [service, phase])).toEqual(
        names.map(name => [name, 'idle']),
      )
      const shown = services.filter(({ details }) => details !== undefined)
      return shown.length > 0 ? shown.map(({ service }) => service) : null
    })
    expect(whole).toHaveLength(1)
    expect(whole).not.toContain('deep')
    expect(daemon.ended).toBe(false)
  })

  it('when it comes back to a daemon that never knew it, and goes', async () => {
    const scene = Scene.open({ upgrade: TIMES, hosting: 'daemon' })
    const daemon = await startDaemon(scene, { upgrade: TIMES })
    const member = await scene.serve()
    const before = openFds(daemon)
    for (let i = 0; i < 30; i++) {
      const peer = await RawPeer.connect(scene.control)
      peer.say(
        hello('BACK', 'shop', i + 100),
        { back: { role: 'standby', epoch: 1, sealed: true } },
        { gone: {} },
      )
      await until('it is fenced', () => peer.heard.some(({ fenced }) => fenced))
      peer.leave()
    }
    // The process lives, and may have clients: the daemon watches one process once.
    const watch = 2
    await fdsAreBackTo(before + watch, daemon)
    expect(member.ended).toBe(false)
  })
})
