// @ts-check
// One process under test: node --expose-gc peer.mjs CONTROL. It is told what to do by messages of its parent, one at a
// time, and answers each.
import { setTimeout as sleep } from 'node:timers/promises'
import { join } from '../../build/modules/index.js'
import { ROUTES, routesSection } from '../../build/modules/proxy/routes/section.js'
import { cpuMs, quiet, startMemory, watchTurns } from './meter.mjs'
import { keyOf, routeOf } from './routes.mjs'

/** @typedef {'turns' | 'cpu'} What of a process is measured: a ring of immediates costs CPU time itself. */

const control = String(process.argv[2])
/** @type {import('../../build/modules/index.js').Member | undefined} */
let member

/** A wall clock with fractions, the same in all processes. */
const now = () => performance.timeOrigin + performance.now()
const joined = () => join({ service: 'bench-state', control, upgrade: { probation: 0 } })

/** @param {What} what */
function watch(what) {
  const memory = startMemory()
  const turns = what === 'turns' ? watchTurns() : null
  const cpu = cpuMs()
  const started = now()
  return async () => {
    const spent = cpuMs() - cpu
    const ms = now() - started
    return { ms, cpu: spent, ...memory(), ...(turns === null ? { longest: 0, work: 0 } : await turns()) }
  }
}

/** @type {ReturnType<typeof watch> | undefined} */
let finish

/** @type {Record<string, (order: any) => Promise<object>>} */
const orders = {
  /** The first generation. @param {{ count: number }} order */
  async load({ count }) {
    member = await joined()
    const section = member.section(ROUTES, routesSection)
    await member.ready()
    const changes = function* () {
      for (let i = 0; i < count; i++) yield { key: keyOf(i), value: routeOf(i) }
    }
    const turns = watchTurns()
    const started = now()
    await section.bulk(changes())
    const ms = now() - started
    const bulk = { ms, ...(await turns()) }
    await quiet()
    return { bulk, bytes: member.status().state.bytes, digest: member.status().state.digest }
  },
  /** The same without a handoff. @param {{ what: What, ms: number }} order */
  async idle({ what, ms }) {
    const end = watch(what)
    await sleep(ms)
    return end()
  },
  /** The incumbent's part. @param {{ what: What }} order */
  async watch({ what }) {
    finish = watch(what)
    return {}
  },
  async finish() {
    const measured = await finish?.()
    const phases = member?.handoffs.at(-1)?.phases ?? []
    const at = Object.fromEntries(phases.map(({ phase, at }) => [phase, at]))
    return { ...measured, at }
  },
  /** The successor's part. @param {{ what: What }} order */
  async take({ what }) {
    const all = watch('cpu')
    const hello = now()
    member = await joined()
    const section = member.section(ROUTES, routesSection)
    const first = section.get(keyOf(0))
    if (first?.upstream?.name !== routeOf(0).upstream.name) throw new Error('the first route is not there')
    const read = now()
    const turns = watch(what)
    await member.ready()
    const serving = now()
    const after = await turns()
    const whole = await all()
    const { digest, entries } = member.status().state
    return { read: read - hello, serving: serving - hello, after, whole, digest, entries }
  },
  quiet: async () => {
    await quiet()
    return {}
  },
}

process.on('message', async (/** @type {{ order: string }} */ message) => {
  try {
    process.send?.({ ok: await orders[message.order]?.(message) })
  } catch (error) {
    process.send?.({ error: error instanceof Error ? error.stack : String(error) })
  }
})
process.on('disconnect', () => process.exit())
process.send?.({ ok: 'started' })
