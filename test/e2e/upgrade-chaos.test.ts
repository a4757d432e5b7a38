import { describe, expect, it } from 'vitest'
import type { App } from '../processes/app.js'
import { ask } from '../processes/client.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

const ROUNDS = Number(process.env.FDB_CHAOS_ROUNDS ?? 20)
const SEED = Number(process.env.FDB_CHAOS_SEED ?? 1)

/** A small generator, so that a run can be repeated as far as the machine allows (mulberry32). */
function randomFrom(seed: number): (below: number) => number {
  let state = seed
  return below => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * below)
  }
}

/** Writes under an id until acknowledged, through whoever answers. */
async function write(url: string, key: string, running: () => boolean): Promise<boolean> {
  while (running()) {
    try {
      const { status } = await ask(`${url}/r/${key}`, {
        method: 'PUT',
        body: 'acknowledged',
        headers: { 'x-request-id': `id-${key}` },
      }).answer
      if (status === 200) return true
    } catch {
      // Its process was killed: tried again at the next.
    }
    await pause(2)
  }
  return false
}

describe('kills at any time', () => {
  it(`of either side, ${ROUNDS} times (seed ${SEED}): one serves on, and no acknowledged change is lost`, {
    timeout: 20_000 + ROUNDS * 2_500,
  }, async () => {
    const random = randomFrom(SEED)
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open({
      routes: 0,
      upgrade: { probation: 100, heartbeat: 25, silence: 1_000 },
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    let current = await scene.serve()
    const acknowledged: string[] = []
    let running = true
    const writers = Array.from({ length: 4 }, async (_, writer) => {
      for (let n = 1; running; n++) {
        const key = `${writer}-${n}`
        if (await write(url, key, () => running)) acknowledged.push(key)
      }
    })
    const history: string[] = []
    for (let round = 1; round <= ROUNDS; round++) {
      const next = await scene.start({ readyDelay: random(40) })
      await next.says('joined')
      const delay = random(160)
      await pause(delay)
      const victim: App = random(2) === 0 ? current : next
      const survivor = victim === current ? next : current
      history.push(`${round}: ${victim === current ? 'incumbent' : 'successor'} after ${delay} ms`)
      await victim.kill()
      const outcome = await until(`${history.at(-1)}: ${survivor.pid} serves, or has left`, async () => {
        if (survivor.ended) return 'left'
        const status = await scene.status().catch(() => null)
        return (
          status?.pid === survivor.pid && status.role === 'serving' && status.phase === 'idle' && 'serves'
        )
      })
      if (outcome === 'left') {
        // It had been released before the other was killed: nobody is there that could have kept anything.
        expect(survivor.find('ended')).toMatchObject({ why: 'replaced' })
        expect(victim).toBe(next)
        acknowledged.length = 0
        current = await scene.serve()
        continue
      }
      const sofar = [...acknowledged]
      const all = await survivor.order<Record<string, unknown>>('all')
      const lost = sofar.filter(key => all[key] === undefined)
      expect({ lost, history: lost.length > 0 ? history : [] }).toEqual({ lost: [], history: [] })
      current = survivor
    }
    running = false
    await Promise.all(writers)
    const { state } = await current.status()
    expect(state.entries).toBeGreaterThanOrEqual(acknowledged.length)
    expect(acknowledged.length).toBeGreaterThan(20)
  })
})
