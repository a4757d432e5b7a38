// @ts-check
// One proxy under test: node --expose-gc proxy.mjs CONFIG. Takes orders as peer.mjs does.
import { readConfig, readConfigAside, startProxy } from '../../build/modules/proxy/index.js'
import { ROUTES, routesSection } from '../../build/modules/proxy/routes/section.js'
import { cpuMs, watchTurns } from '../turns.mjs'
import { quiet } from './meter.mjs'
import { obey } from './orders.mjs'

const file = String(process.argv[2])
/** @type {import('../../build/modules/proxy/index.js').ReverseProxy | undefined} */
let proxy
/** @type {ReturnType<typeof watchTurns> | undefined} */
let finish

/** @param {(proxy: import('../../build/modules/proxy/index.js').ReverseProxy, calm: () => Promise<void>) => Promise<unknown>} work */
async function measured(work) {
  if (proxy === undefined) throw new Error('it does not serve')
  const turns = watchTurns()
  const [started, cpu] = [performance.now(), cpuMs()]
  await work(proxy, turns.calm)
  const spent = { ms: performance.now() - started, cpu: cpuMs() - cpu }
  return { ...spent, ...(await turns.end()) }
}

/** Made at run time, with hosts that no configuration has. @param {number} count */
function* made(count) {
  for (let i = 0; i < count; i++)
    yield {
      key: `runtime:made-${i}.eu-west.example.com/`,
      value: /** @type {any} */ ({
        upstream: { name: `pool-${i % 100}`, connect: false },
        created: 1,
        generation: 1,
      }),
    }
}

/** @type {import('./orders.mjs').Orders} */
const orders = {
  /** The configuration is read before anybody is asked for anything. */
  async serve() {
    const config = await readConfig(file)
    const turns = watchTurns()
    proxy = await startProxy(config)
    await turns.calm()
    const serving = await turns.end()
    return { ...serving, routes: proxy.member.section(ROUTES, routesSection).size }
  },
  /** As HUP does. */
  reload: () => measured(async proxy => proxy.reload(await readConfigAside(file))),
  /** @param {{ count: number }} order */
  make: ({ count }) =>
    measured(async ({ member }, calm) => {
      await member.section(ROUTES, routesSection).bulk(made(count))
      // The table follows.
      await calm()
    }),
  async watch() {
    finish = watchTurns()
    return {}
  },
  async finish() {
    return (await finish?.end()) ?? {}
  },
  async quiet() {
    await quiet()
    return {}
  },
}

obey(orders)
