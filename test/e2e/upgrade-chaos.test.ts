import { describe, expect, it } from 'vitest'
import { perLane } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { ask } from '../processes/client.js'
import { randomFrom } from '../processes/random.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

const ROUNDS = Number(process.env.FDB_CHAOS_ROUNDS ?? perLane(2, 20))
const SEED = Number(process.env.FDB_CHAOS_SEED ?? 1)

/** Writes under an id until acknowledged, through any process that answers. */
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
      // The process was killed: tried again at the next.
    }
    await pause(2)
  }
  return false
}

/** Four that write one key after the other. */
class Writers {
  readonly acknowledged: string[] = []
  readonly #all: Promise<void>[]
  #running = true

  constructor(url: string) {
    this.#all = Array.from({ length: 4 }, async (_, writer) => {
      for (let n = 1; this.#running; n++) {
        const key = `${writer}-${n}`
        if (await write(url, key, () => this.#running)) this.acknowledged.push(key)
      }
    })
  }

  async stop(): Promise<void> {
    this.#running = false
    await Promise.all(this.#all)
  }
}

describe('kills at any time', () => {
  it(`of either side, ${ROUNDS} times (seed ${SEED}): one serves on, and no acknowledged change is lost`, {
    timeout: 180_000 + ROUNDS * 2_500,
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
    const writers = new Writers(url)
    const { acknowledged } = writers
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
        // The incumbent had been released before the other was killed: no process is there that could have kept anything.
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
    await writers.stop()
    const { state } = await current.status()
    expect(state.entries).toBeGreaterThanOrEqual(acknowledged.length)
    expect(acknowledged.length).toBeGreaterThan(ROUNDS)
  })
})

describe('stops at any time', () => {
  it(`of either side, ${ROUNDS / 2} times (seed ${SEED}): when it goes on, one serves, and no acknowledged change is lost`, {
    timeout: 180_000 + ROUNDS * 2_500,
  }, async () => {
    const random = randomFrom(SEED + 1_000)
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const limits = { ready: 1_500, freeze: 200, prepare: 300, commit: 300 }
    const scene = Scene.open({
      routes: 0,
      timeout: 3_000,
      upgrade: { probation: 200, heartbeat: 25, silence: 300, ...limits },
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    let current = await scene.serve()
    const writers = new Writers(url)
    for (let round = 1; round <= ROUNDS / 2; round++) {
      const next = await scene.start({ readyDelay: random(40) })
      await next.says('joined')
      const [delay, length] = [random(160), random(900)]
      await pause(delay)
      const victim = random(2) === 0 ? current : next
      victim.signal('SIGSTOP')
      await pause(length)
      victim.signal('SIGCONT')
      const what = `${round}: ${victim === next ? 'successor' : 'incumbent'} stopped after ${delay} ms for ${length} ms`
      const { pid } = await scene.statusWhere(
        `${what}: one serves, the other is gone`,
        ({ role, phase }) => role === 'serving' && phase === 'idle' && current.ended !== next.ended,
      )
      const owner = current.ended ? next : current
      expect({ what, pid }).toEqual({ what, pid: owner.pid })
      const sofar = [...writers.acknowledged]
      const all = await owner.order<Record<string, unknown>>('all')
      expect({ what, lost: sofar.filter(key => all[key] === undefined) }).toEqual({ what, lost: [] })
      current = owner
    }
    await writers.stop()
    const { state } = await current.status()
    // Nothing was applied twice: there is one record for each entry.
    expect(state.sequence).toBe(state.entries)
  })
})
