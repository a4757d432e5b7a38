import { describe, expect, it } from 'vitest'
import { spawnLoad } from '../../bench/referee/remote.mjs'
import { perLane } from '../lanes/lane.js'
import { serveByCommand, servedBy, serviceWhere } from '../processes/daemon.js'
import { answersBy } from '../processes/load.js'
import { freePort, Scene } from '../processes/scene.js'
import { socketsAt } from '../processes/sockets.js'
import { pause, until } from '../processes/until.js'

const KILLS = perLane(1, 20)

describe('fd-broker serve, and a member that is killed', () => {
  it(`gives the next one the queued connections and every acknowledged change, ${KILLS} times under load`, async () => {
    const port = await freePort()
    const scene = Scene.open({
      hosting: 'daemon',
      routes: 1_000,
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    await serveByCommand(scene)
    let app = await scene.serve()
    expect(app.find('joined')).toMatchObject({ generation: 1, first: true })
    const load = spawnLoad({
      target: `http://127.0.0.1:${port}`,
      rate: perLane(80, 200),
      connections: 8,
      routes: 1_000,
      every: 50,
      writes: 40,
      deadlineMs: 30_000,
    })
    try {
      await until('the load is answered', () => (load.snapshot()?.answered ?? 0) > 50)
      const acknowledged: Record<string, { item: string }> = {}
      for (let kill = 1; kill <= KILLS; kill++) {
        for (let i = 0; i < 5; i++) {
          const [key, value] = [`kept-${kill}-${i}`, { item: `${kill}/${i}` }]
          await app.order('put', { key, value })
          acknowledged[key] = value
        }
        await app.kill()
        app = await scene.serve()
        expect(app.find('joined')).toMatchObject({ generation: kill + 1, first: false })
        const all: Record<string, { item: string }> = await app.order('all')
        expect(all).toMatchObject(acknowledged)
        expect(Object.keys(all)).toHaveLength(1_000 + 5 * kill)
        // So there is a load at every kill.
        await until('clients are answered by the new one', () => answersBy(load, app.pid) >= 20)
      }
      const { total, incidents } = await load.stop()
      // The kernel cuts connections that were open at a kill; nothing else may happen, and no acknowledged write be lost.
      const { refused, wrong, dropped } = total.counts
      expect({ refused, wrong, dropped, incidents }).toMatchObject({ refused: 0, wrong: 0, dropped: 0 })
    } finally {
      load.kill()
    }
    const { sections, pid } = await serviceWhere(scene, 'the state rests', status => status.phase === 'idle')
    expect(pid).toBe(app.pid)
    await app.kill()
    expect((await servedBy(scene, await scene.serve())).sections).toEqual(sections)
  })

  it('lets the next one in, though the daemon hears of both in one turn', async () => {
    const scene = Scene.open({ hosting: 'daemon', routes: 50 })
    const daemon = await serveByCommand(scene)
    let app = await scene.serve()
    for (let kill = 1; kill <= perLane(1, 5); kill++) {
      daemon.signal('SIGSTOP')
      await app.kill()
      const before = socketsAt(scene.control)
      app = await scene.start()
      await until('it has connected', () => socketsAt(scene.control) > before)
      // The client has said Hello.
      await pause(50)
      daemon.signal('SIGCONT')
      await app.serving()
      expect(app.find('joined')).toMatchObject({ generation: kill + 1, first: false })
    }
  })
})
