// @ts-check
// One process under test: node --expose-gc peer.mjs CONTROL. The parent sends orders, one at a
// time, and the process answers each.
import { setTimeout as sleep } from 'node:timers/promises'
import { join } from '../../build/modules/index.js'
import { ROUTES, routesSection } from '../../build/modules/proxy/routes/section.js'
import { cpuMs, watchTurns } from '../turns.mjs'
import { quiet, startMemory } from './meter.mjs'
import { obey } from './orders.mjs'
import { changesOf, keyOf, routeOf } from './routes.mjs'

/** @typedef {'turns' | 'cpu'} Measure the cost of a process that is measured: a ring of immediates costs CPU time itself. */

const control = String(process.argv[2])
/** @type {import('../../build/modules/index.js').Member | undefined} */
let member

/** A wall clock with fractions, the same in all processes. */
const now = () => performance.timeOrigin + performance.now()
/** @param {object} [options] */
const joined = options =>
  join({ service: 'bench-state', control, upgrade: { probation: 0 }, timeout: 60_000, ...options })
/** The section under test of who has joined. */
const routes = () => {
  if (member === undefined) throw new Error('it has not joined')
  return member.section(ROUTES, routesSection)
}

/** @param {Measure} what */
function watch(what) {
  const memory = startMemory()
  const turns = what === 'turns' ? watchTurns() : null
  const cpu = cpuMs()
  const started = now()
  return async () => {
    const spent = cpuMs() - cpu
    const ms = now() - started
    return {
      ms,
      cpu: spent,
      ...memory(),
      ...(turns === null ? { turn: 0, work: 0, blocked: 0 } : await turns.end()),
    }
  }
}

/** @param {(calm: () => Promise<void>) => unknown} work how long it takes, and what its longest turn is */
async function measured(work) {
  const turns = watchTurns()
  const [started, cpu] = [now(), cpuMs()]
  await work(turns.calm)
  const spent = { ms: now() - started, cpu: cpuMs() - cpu }
  return { ...spent, ...(await turns.end()) }
}

/** @type {ReturnType<typeof watch> | undefined} */
let finish

/** @type {import('./orders.mjs').Orders} */
const orders = {
  /** Serves: the first generation, or another. @param {{ options?: object }} order */
  async serve({ options }) {
    const taken = await measured(async () => {
      member = await joined(options)
      routes()
      await member.ready()
    })
    return { ...taken, entries: routes().size }
  },
  /** All of them in one bulk; `turn`: another value of each; `merge`: with the compaction that follows. @param {{ count: number, turn?: number, merge?: boolean }} order */
  async load({ count, turn = 0, merge = false }) {
    const bulk = await measured(async calm => {
      await routes().bulk(changesOf(count, turn))
      if (merge) await calm()
    })
    return { ...bulk, digest: member?.status().state.digest }
  },
  /** Each is read, as an application does that looks at all. */
  async read() {
    let read = 0
    const all = async () => {
      for await (const [, { upstream }] of routes()) if (upstream?.name) read++
    }
    const [started, cpu] = [now(), cpuMs()]
    await all()
    return { read, ms: now() - started, cpu: cpuMs() - cpu }
  },
  /** Does the same without a handoff. @param {{ what: Measure, ms: number }} order */
  async idle({ what, ms }) {
    const end = watch(what)
    await sleep(ms)
    return end()
  },
  /** Plays the incumbent, or a follower. @param {{ what: Measure }} order */
  async watch({ what }) {
    finish = watch(what)
    return {}
  },
  async finish() {
    return (await finish?.()) ?? {}
  },
  /** Plays the successor. @param {{ what: Measure }} order */
  async take({ what }) {
    const all = watch('cpu')
    const hello = now()
    const before = watch(what)
    member = await joined()
    const first = routes().get(keyOf(0))
    if (first?.upstream?.name !== routeOf(0).upstream.name) throw new Error('the first route is not there')
    const read = now()
    const joining = await before()
    const waited = now() - read
    const turns = watch(what)
    await member.ready()
    const serving = now() - waited
    const after = await turns()
    const whole = await all()
    const { digest, entries } = member.status().state
    return { read: read - hello, serving: serving - hello, joining, after, whole, digest, entries }
  },
  /** Resolves when it has what that process has that said so. @param {{ digest: string }} order */
  async has({ digest }) {
    while (member?.status().state.digest !== digest) await sleep(20)
    return {}
  },
  /** Resolves when all is in the state file. */
  async saved() {
    for (;;) {
      const { file, sequence } = member?.status().state ?? {}
      if (file?.sequence === sequence) return {}
      await sleep(20)
    }
  },
  async status() {
    const { digest, bytes } = member?.status().state ?? {}
    return { digest, bytes }
  },
  quiet: async () => {
    await quiet()
    return {}
  },
}

obey(orders)
