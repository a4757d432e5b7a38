import { Agent } from 'node:http'
import { describe, expect, it } from 'vitest'
import { perLane } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const TIMES = { probation: 0, heartbeat: 50, ready: 20_000 }
const ENTRIES = perLane(5_000, 100_000)
const UPGRADES = perLane(2, 5)

describe('state', () => {
  it(`of ${ENTRIES} entries put at run time is read by the successor, with the same digest at the commit`, async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve({ routes: 0 })
    await first.order('many', { count: ENTRIES })
    const second = await scene.serve()
    await first.end()
    const { state, sections } = await scene.status()
    expect(state.entries).toBe(ENTRIES)
    const incumbent = first.find('ended')!.position
    expect(state.takenOver).toMatchObject({ sequence: incumbent.sequence, digest: incumbent.digest })
    expect(state.digest).toBe(incumbent.digest)
    expect(sections).toMatchObject([{ name: 'routes', entries: ENTRIES }])
    for (const key of ['0', `${ENTRIES / 2 + 777}`, `${ENTRIES - 1}`]) {
      expect(await second.order('get', { key })).toEqual({ item: `item-${key}` })
    }
    expect(second.find('joined')!.ms).toBeLessThan(5_000)
  })

  it(`grows across ${UPGRADES} upgrades: each acknowledged change is there once, each refused one can be repeated`, async () => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open({
      upgrade: TIMES,
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    let current = await scene.serve({ routes: 0 })
    const start = (await scene.status()).state.sequence
    const agent = new Agent({ keepAlive: true, maxSockets: 8 })
    const written = new Map<string, string>()
    const oddities: string[] = []
    let refused = 0
    let running = true
    /** One change at a time, each under an id of its own until it is acknowledged. */
    const write = async (writer: number) => {
      for (let n = 1; running; n++) {
        const key = `${writer}-${n}`
        const item = `value ${n}`
        for (;;) {
          const { status, body } = await ask(`${url}/r/${key}`, {
            method: 'PUT',
            body: item,
            headers: { 'x-request-id': `id-${key}` },
            agent,
          }).answer
          if (status === 200) break
          refused++
          if (status !== 503 || !body.startsWith('ERR_FDB_FENCED')) oddities.push(`${status} ${body}`)
        }
        written.set(key, item)
      }
    }
    const writers = Array.from({ length: 8 }, (_, writer) => write(writer))
    const moreIsWritten = async () => {
      const enough = written.size + 80
      await until('80 changes more are acknowledged', () => written.size >= enough || oddities.length > 0)
    }
    for (let upgrade = 1; upgrade <= UPGRADES; upgrade++) {
      await moreIsWritten()
      const next = await scene.serve()
      await current.says('retiring')
      current = next
    }
    await moreIsWritten()
    running = false
    await Promise.all(writers)
    expect(oddities).toEqual([])
    const all = await current.order<Record<string, { item: string }>>('all')
    expect(Object.keys(all)).toHaveLength(written.size)
    for (const [key, item] of written) expect(all[key]).toEqual({ item })
    // Each id made one record, however often it was sent.
    const end = (await scene.status()).state
    expect(end.sequence - start).toBe(written.size)
    for (const [key] of [...written].slice(0, 50)) {
      await ask(`${url}/r/${key}`, {
        method: 'PUT',
        body: 'again',
        headers: { 'x-request-id': `id-${key}` },
        agent,
      }).answer
    }
    expect((await scene.status()).state).toMatchObject({ sequence: end.sequence, digest: end.digest })
    expect(refused).toBeLessThan(written.size)
    agent.destroy()
  })

  it('changed while the handoff commits is made once, on one side or the other: by calls that do not know of it', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    let current = await scene.serve({ routes: 0 })
    for (let upgrade = 1; upgrade <= perLane(2, 3); upgrade++) {
      // Puts in the process itself, and on when another serves, to its end; it says how many were acknowledged, and how the rest ended.
      await current.order('hammer', { prefix: `g${upgrade}-` })
      const next = await scene.serve()
      const { acknowledged, refusals } = await current.says('hammered')
      expect(acknowledged).toBeGreaterThan(10)
      // Once its last connection has ended it has left.
      expect(['', 'ERR_FDB_STATE_CLOSED']).toContain(Object.keys(refusals).join())
      const all = await next.order<Record<string, unknown>>('all')
      const there = Object.keys(all).filter(key => key.startsWith(`g${upgrade}-`))
      expect(there).toHaveLength(acknowledged)
      await current.end()
      current = next
    }
  })
})
