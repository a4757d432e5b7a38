import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { CountingClients } from '../processes/counting-clients.js'
import { startDaemon } from '../processes/daemon.js'
import { upstream } from '../processes/edge.js'
import { Follower } from '../processes/event-follower.js'
import { hasEnded } from '../processes/launch.js'
import { freePort, Scene } from '../processes/scene.js'
import { Scraping, sumOf } from '../processes/scraping.js'
import { until } from '../processes/until.js'

const PROXY = fileURLToPath(new URL('../fixtures/follow-proxy.mjs', import.meta.url))
const TIMES = { probation: 3_000, heartbeat: 100, silence: 2_000 }
const [UPGRADES, ROLLBACKS, SCRAPE_MS] = [20, 3, 1_000]
/** Rollbacks come after each so many upgrades; the daemon is killed amid them. */
const BETWEEN = Math.floor(UPGRADES / (ROLLBACKS + 1))
const KILLED_AT = UPGRADES / 2 + 2
const REQUESTS = 'fdbroker_proxy_requests_total'

it.runIf(NIGHTLY)(
  'a scrape a second and a follower lose nothing and count nothing twice through 20 upgrades, 3 rollbacks and a killed daemon, under load',
  async () => {
    const scene = Scene.open()
    const [app, port, metricsPort] = [await upstream(), await freePort(), await freePort()]
    const file = scene.write(
      'edge.json',
      JSON.stringify({
        service: 'edge',
        control: scene.control,
        instanceHeader: 'X-Pid',
        listeners: [{ name: 'http', address: `tcp://127.0.0.1:${port}` }],
        upstreams: { app: { servers: [app.url] } },
        routes: [
          { host: '*', upstream: 'app' },
          { host: '*', path: '/gone', respond: { status: 410 } },
        ],
        metrics: `tcp://127.0.0.1:${metricsPort}`,
        upgrade: Object.fromEntries(Object.entries(TIMES).map(([key, ms]) => [key, `${ms}ms`])),
      }),
    )
    let daemon = await startDaemon(scene, { upgrade: TIMES })
    const serve = async () => await (await scene.start({}, { command: [PROXY, file, 'edge'] })).serving()
    const versions: App[] = [await serve()]
    const follower = new Follower(scene.control, ['--service', 'edge'])
    const scraping = new Scraping(`http://127.0.0.1:${metricsPort}/metrics`, SCRAPE_MS)
    const clients = new CountingClients(`http://127.0.0.1:${port}`)
    const count = (type: string) => follower.types.filter(each => each === type).length
    const answered = async () => {
      const before = clients.answers
      await until('the clients are answered', () => clients.answers > before + 50, 20_000)
    }
    for (let upgrade = 1; upgrade <= UPGRADES; upgrade++) {
      const [kept, reverted] = [count('handoff.kept'), count('rollback.started')]
      versions.push(await serve())
      await answered()
      await follower.has(`upgrade ${upgrade} is kept`, () => count('handoff.kept') > kept)
      if (upgrade === KILLED_AT) {
        await daemon.kill()
        await answered()
        daemon = await startDaemon(scene, { upgrade: TIMES })
        await follower.has('the daemon knows its member', () => count('daemon.restarted') > 0)
      }
      if (upgrade % BETWEEN !== 0 || reverted === ROLLBACKS) continue
      const next = await serve()
      await answered()
      await scene.rollback('edge')
      await follower.has(
        'the version before serves again',
        () =>
          follower.types.lastIndexOf('rollback.serving') > follower.types.lastIndexOf('handoff.committed'),
      )
      await until('the version that was rolled back has ended', () => hasEnded(next.pid), 30_000)
      await answered()
    }
    await clients.stop()
    await until(
      'older versions have ended',
      () => versions.slice(0, -1).every(({ pid }) => hasEnded(pid)),
      60_000,
    )
    const last = await until('the last counts are there', async () => {
      const samples = await scraping.once()
      return sumOf(samples, REQUESTS) >= clients.answers ? samples : undefined
    })
    expect(await scraping.stop()).toEqual([])
    expect({
      requests: sumOf(last, REQUESTS),
      ok: sumOf(last, REQUESTS, 'code="2xx"'),
      gone: sumOf(last, REQUESTS, 'code="4xx"'),
      timed: sumOf(last, 'fdbroker_proxy_request_duration_seconds_count'),
      sent: sumOf(last, 'fdbroker_proxy_server_requests_total'),
      lost: sumOf(last, 'fdbroker_connections_lost_total'),
    }).toEqual({
      requests: clients.answers,
      ok: clients.answers - clients.gone,
      gone: clients.gone,
      timed: clients.answers,
      sent: clients.answers - clients.gone,
      lost: 0,
    })
    // A scrape that failed would have rejected; each was answered within its second.
    expect(scraping.scrapes).toBeGreaterThan(UPGRADES * (TIMES.probation / SCRAPE_MS))
    const { events } = follower
    expect(events.map(({ number }) => number)).toEqual(events.map((_, i) => i + 1))
    expect(follower.stderr).toBe('')
    const ends = [
      'handoff.kept',
      'rollback.started',
      'rollback.serving',
      'daemon.restarted',
      'handoff.committed',
    ]
    expect(Object.fromEntries(ends.map(type => [type, count(type)]))).toEqual({
      'handoff.kept': UPGRADES,
      'rollback.started': ROLLBACKS,
      // Also after the restart of the daemon.
      'rollback.serving': ROLLBACKS + 1,
      'daemon.restarted': 1,
      // The first version takes over from none.
      'handoff.committed': UPGRADES + ROLLBACKS + 1,
    })
  },
  600_000,
)
