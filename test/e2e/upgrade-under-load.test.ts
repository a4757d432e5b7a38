import { Agent } from 'node:http'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { ask, whoServes } from '../processes/client.js'
import { ancestorsOf } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { freePort, Scene } from '../processes/scene.js'

const EVENTS = ['serving', 'retiring', 'reinstated', 'retired']

const UPGRADES = perLane(1, 3)

describe('an unrelated process takes over', () => {
  it(`under load, ${UPGRADES} times: no request is lost, and the old one leaves as replaced`, async () => {
    const port = await freePort()
    const scene = Scene.open({
      routes: 1_000,
      upgrade: { probation: 300, heartbeat: 50 },
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    const first = await scene.serve()
    const { startedAt } = first.find('joined')!
    const load = await loadOn(`http://127.0.0.1:${port}`, { rate: perLane(150, 600), routes: 64, writes: 60 })
    let old = first
    for (let upgrade = 1; upgrade <= UPGRADES; upgrade++) {
      await load.mark(`upgrade ${upgrade}`)
      // Before the old one may end: a process that has ended has no ancestors.
      const ancestors = ancestorsOf(old.pid)
      const next = await scene.serve()
      await load.answeredBy(next.pid, 200)
      expect(ancestorsOf(next.pid).filter(pid => ancestors.includes(pid))).toEqual([1])
      await old.end(20_000)
      expect(old.find('ended')).toMatchObject({ why: 'replaced' })
      expect(old.story.filter(word => EVENTS.includes(word))).toEqual(['serving', 'retiring', 'retired'])
      expect(next.find('joined')).toMatchObject({ generation: upgrade + 1, startedAt })
      old = next
    }
    const { uptimeSeconds, serviceStartedAt, generation } = await scene.status()
    expect(generation).toBe(UPGRADES + 1)
    expect(Date.parse(serviceStartedAt)).toBe(startedAt)
    expect(uptimeSeconds).toBeGreaterThan((Date.now() - startedAt) / 1000 - 1)
    await load.stop()
  })

  it('while a slow request and a stream are under way: both are answered whole by the old one, which leaves then', async () => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open({
      upgrade: { probation: 100, heartbeat: 50 },
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    const first = await scene.serve()
    const slow = ask(`${url}/slow?ms=4000`)
    const stream = ask(`${url}/stream?lines=45`)
    expect(await stream.head).toBe(200)
    const second = await scene.serve()
    await first.says('retiring')
    const status = await scene.statusWhere(
      'the old one drains',
      ({ draining }) => draining[0]?.connections === 2,
    )
    expect(status).toMatchObject({ pid: second.pid, draining: [{ pid: first.pid, generation: 1 }] })
    expect(first.find('retired')).toBeUndefined()
    expect(await slow.answer).toMatchObject({ body: 'slow but sure\n', headers: { connection: 'close' } })
    const { body } = await stream.answer
    expect(body).toBe(Array.from({ length: 45 }, (_, line) => `line ${line}\n`).join(''))
    const answered = Date.now()
    await first.end()
    expect(first.story.filter(word => EVENTS.includes(word))).toEqual(['serving', 'retiring', 'retired'])
    expect(first.find('retired')).toMatchObject({ why: 'replaced' })
    expect(first.find('retired')!.at).toBeGreaterThan(answered - 100)
    await scene.statusWhere('nobody drains', ({ draining }) => draining.length === 0)
  })

  it('and a connection that stayed with the old one reads what was written at the new one since', async () => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open({
      upgrade: { probation: 100, heartbeat: 50 },
      drain: { move: 'off' },
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    const first = await scene.serve()
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    await ask(`${url}/whoami`, { agent }).answer
    const second = await scene.serve()
    await first.says('retiring')
    const written = await ask(`${url}/r/new`, { method: 'PUT', body: 'by the new one' }).answer
    expect(written.headers['x-pid']).toBe(`${second.pid}`)
    const read = await ask(`${url}/r/new`, { agent }).answer
    expect(read).toMatchObject({
      body: 'new by the new one\n',
      headers: { 'x-pid': `${first.pid}`, connection: 'close' },
    })
    await first.end()
    expect(await whoServes(url)).toBe(second.pid)
  })

  it.runIf(NIGHTLY)(
    'and again: one that stayed through three upgrades reads what the newest writes',
    async () => {
      const port = await freePort()
      const url = `http://127.0.0.1:${port}`
      const scene = Scene.open({
        upgrade: { probation: 50, heartbeat: 50 },
        drain: { move: 'off' },
        listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
      })
      const stayed: { pid: number; agent: Agent }[] = []
      let app = await scene.serve()
      for (let upgrade = 1; upgrade <= 3; upgrade++) {
        const agent = new Agent({ keepAlive: true, maxSockets: 1 })
        await ask(`${url}/whoami`, { agent }).answer
        stayed.push({ pid: app.pid, agent })
        app = await scene.serve()
        await scene.statusWhere('all older ones drain and report', ({ phase, draining }) => {
          return phase === 'idle' && draining.length === upgrade
        })
      }
      const written = await ask(`${url}/r/new`, { method: 'PUT', body: 'by the newest' }).answer
      expect(written.headers['x-pid']).toBe(`${app.pid}`)
      for (const { pid, agent } of stayed) {
        const read = await ask(`${url}/r/new`, { agent }).answer
        expect(read).toMatchObject({ body: 'new by the newest\n', headers: { 'x-pid': `${pid}` } })
      }
    },
  )
})
