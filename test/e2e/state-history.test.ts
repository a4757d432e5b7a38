import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { seeded } from '../fixtures/seeded.js'
import { perLane } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import {
  type ServiceStatus,
  serveByCommand,
  servedBy,
  serviceStatus,
  serviceWhere,
} from '../processes/daemon.js'
import { History, type Reading, TOTAL } from '../processes/history.js'
import { Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

/** `npm run soak -- history` gives more rounds, and another seed. */
const ROUNDS = Number(process.env.FDB_HISTORY_ROUNDS ?? perLane(3, 6))
const SEED = Number(process.env.FDB_HISTORY_SEED ?? 32)
const MEMBER = fileURLToPath(new URL('../fixtures/history-member.mjs', import.meta.url))
const CLIENTS = 6
/** A handoff that lasts longer has no end: the deadlines here come to less than half of it, also with a stopped incumbent. */
const REST_MS = 15_000

it(
  `changes through ${ROUNDS} upgrades, kills and stops are linearizable, and made once (seed ${SEED})`,
  async () => {
    const random = seeded(SEED)
    const scene = Scene.open({
      hosting: 'daemon',
      upgrade: { probation: 300, heartbeat: 50, silence: 1_000, quiesce: 1_000, commit: 3_000 },
    })
    await serveByCommand(scene)
    const start = () => scene.start({}, { command: [MEMBER] })
    const serving = async () => await (await start()).serving()
    let current = await serving()
    await current.says('ready')
    await current.order('seed', { amount: TOTAL })
    /** The processes that clients may ask: the serving one, and earlier ones, which forward. */
    let asked: App[] = [current]
    const clientsRandom = seeded(SEED + 1)
    const history = new History(CLIENTS, clientsRandom, () => asked[clientsRandom(asked.length)]!)
    const story: string[] = []
    const atRest = () =>
      serviceWhere(scene, 'the service comes to rest', ({ phase }) => phase === 'idle', { ms: REST_MS })
    let watched = true
    /** A successor that is told ERR_FDB_BUSY joins again: a handoff without an end would look like a slow machine. */
    const rests = (async () => {
      while (watched) {
        const last = (await serviceStatus(scene)).handoffs.at(-1)?.successor
        const rested = ({ phase, handoffs }: ServiceStatus) =>
          phase === 'idle' || handoffs.at(-1)?.successor !== last
        await serviceWhere(scene, 'the handoff comes to its end', rested, { ms: REST_MS })
        await pause(50)
      }
    })()
    rests.catch(() => {})
    const acts = {
      /** Both are asked: the one that was replaced forwards. */
      async upgrade() {
        const next = await serving()
        asked = [next, current]
        await pause(100 + random(200))
        asked = [next]
        current = next
      },
      async 'kill who serves'() {
        await pause(random(100))
        await current.kill()
        current = await serving()
        asked = [current]
      },
      async 'kill the successor'() {
        const next = await start()
        await next.says('takes orders')
        asked = [current, next]
        await pause(random(60))
        await next.kill()
        asked = [current]
        await until('the one before serves', async () => {
          if (current.ended) current = await serving()
          return (await servedBy(scene, current).catch(() => null)) !== null
        })
        asked = [current]
      },
      /**
       * The stopped process finds that another serves when it goes on. In its probation the standby would serve again, and a
       * successor would be refused until the stopped process goes on or ends.
       */
      async 'stop who serves'() {
        await atRest()
        const stopped = current
        stopped.signal('SIGSTOP')
        const next = await serving()
        asked = [next]
        stopped.signal('SIGCONT')
        asked = [next, stopped]
        await pause(100 + random(200))
        asked = [next]
        current = next
      },
      /** The right goes back to a process that is stopped: a joiner may come all the same. */
      async 'stop who serves, and kill its successor'() {
        await atRest()
        const stopped = current
        stopped.signal('SIGSTOP')
        const next = await start()
        // That lasts for a heartbeat: the record of the handoff has it afterwards too.
        await serviceWhere(scene, 'the stopped process is to freeze, or was', ({ handoffs }) => {
          const last = handoffs.at(-1)
          return last?.successor === next.pid && last.phases.some(({ phase }) => phase === 'freezing')
        })
        await pause(random(600))
        await next.kill()
        // The successor may have served for good by then: who is stopped was its predecessor, and is waited for.
        if ((await atRest()).blockedBy.includes(stopped.pid)) stopped.signal('SIGCONT')
        current = await serving()
        asked = [current]
        stopped.signal('SIGCONT')
        asked = [current, stopped]
        await pause(100 + random(200))
        asked = [current]
      },
      /** Heartbeats are missing: the standby serves again, and the stopped successor learns that when it goes on. */
      async 'stop the successor'() {
        await atRest()
        const next = await serving()
        next.signal('SIGSTOP')
        const { pid } = await atRest()
        next.signal('SIGCONT')
        asked = [current, next]
        await pause(100 + random(200))
        if (pid === next.pid) current = next
        asked = [current]
      },
    }
    const names = Object.keys(acts) as (keyof typeof acts)[]
    for (let round = 0; round < ROUNDS; round++) {
      // Each kind comes first once.
      const name = round < names.length ? names[(round + SEED) % names.length]! : names[random(names.length)]!
      story.push(name)
      await Promise.race([acts[name](), rests])
    }
    watched = false
    await history.stop()
    await rests
    await atRest()
    const last = await current.order<Reading>('read')
    try {
      history.check(last)
    } catch (error) {
      throw new Error(`seed ${SEED}: ${story.join(', ')}: ${(error as Error).message}`, { cause: error })
    }
    const { acknowledged, operations, readings } = history
    console.log(
      `seed ${SEED}: ${acknowledged.length} of ${operations.length} acknowledged, ${readings.length} readings, refused: ${JSON.stringify(Object.fromEntries(history.refusals))}; ${story.join(', ')}`,
    )
    expect(acknowledged.length).toBeGreaterThan(ROUNDS * 10)
  },
  60_000 + ROUNDS * 10_000,
)
