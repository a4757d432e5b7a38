import { once } from 'node:events'
import http2 from 'node:http2'
import { describe, expect, it, onTestFinished } from 'vitest'
import { ProgressLine } from '../../src/cli/output.js'
import { copyState } from '../../src/cli/state-source.js'
import { RATE_BUCKETS } from '../../src/proxy/routes/rate-buckets.js'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { type Config, Edge } from '../processes/edge.js'
import { signalPid } from '../processes/launch.js'
import { freePort } from '../processes/scene.js'
import { samplesOf, sumOf } from '../processes/scraping.js'
import { until } from '../processes/until.js'

const limited = (rateLimit: object, rest: object = {}) => [
  { host: '*', respond: { body: 'ok' }, rateLimit, ...rest },
  { host: 'free.test', respond: { body: 'ok' } },
]

/** An edge whose state nothing else changes. */
async function scene(rateLimit: object, rest: Config = {}) {
  const edge = await Edge.prepare({ routes: limited(rateLimit), ...rest })
  const statusOf = async (headers: Record<string, string> = {}) =>
    (await ask(edge.url, { headers }).answer).status
  const written = async () => {
    const { log } = await copyState(
      { control: edge.sandbox.control, service: 'edge', timeout: 20_000 },
      new ProgressLine(),
    )
    const buckets = log.rawSection(RATE_BUCKETS)
    const text = [...buckets.keys()].map(key => Buffer.from(buckets.get(key)!.value).toString('hex')).join()
    log.close()
    return text
  }
  /** Sends a request. Resolves when the other processes know that it has passed. */
  const pass = async () => {
    const before = await written()
    expect(await statusOf()).toBe(200)
    await until('the state has it', async () => (await written()) !== before)
  }
  return { edge, statusOf, pass }
}

describe('a route with a rate limit', () => {
  it('refuses what is beyond it, over HTTP/1 and HTTP/2, and says when to come again', async () => {
    const port = await freePort()
    const { edge, statusOf } = await scene(
      { requests: 1, per: '1h', burst: 3 },
      { metrics: `tcp://127.0.0.1:${port}` },
    )
    edge.write({ listeners: [{ name: 'http', address: `tcp://127.0.0.1:${edge.port}`, http2: true }] })
    await edge.next()
    const session = http2.connect(edge.url)
    onTestFinished(() => session.destroy())
    const overHttp2 = async () => {
      const stream = session.request({ ':authority': 'a' }).resume()
      const [answer] = (await once(stream, 'response')) as [http2.IncomingHttpHeaders]
      return answer
    }
    expect([await statusOf(), (await overHttp2())[':status'], await statusOf()]).toEqual([200, 200, 200])
    const refused = await ask(edge.url).answer
    expect([refused.status, refused.body, refused.headers['retry-after']]).toEqual([
      429,
      'rate-limited\n',
      '3600',
    ])
    expect(await overHttp2()).toMatchObject({ ':status': 429, 'retry-after': '3600' })
    expect(await statusOf({ host: 'free.test' })).toBe(200)
    const metrics = async () => samplesOf((await ask(`http://127.0.0.1:${port}/metrics`).answer).body)
    await until(
      'both are counted',
      async () => sumOf(await metrics(), 'fdbroker_proxy_limited_requests_total') === 2,
    )
    // A limit with other numbers goes on with the same count.
    await edge.reload({ routes: limited({ requests: 3_600, per: '1h', burst: 4 }) })
    await until('a token is back', async () => (await statusOf()) === 200)
    await edge.reload({ routes: limited({ requests: 1, per: '1h', by: 'header:X-Key' }) })
    const keys = ['a', 'b', 'a', '', '']
    const answers = []
    for (const key of keys) answers.push(await statusOf(key === '' ? {} : { 'x-key': key }))
    expect(answers).toEqual([200, 200, 429, 200, 429])
  })

  it('goes on in the next version, and in the previous one after a rollback', async () => {
    const { edge, statusOf, pass } = await scene(
      { requests: 1, per: '1h', burst: 3 },
      { upgrade: { probation: '1m' } },
    )
    const first = await edge.next()
    await pass()
    await pass()
    const second = await edge.next()
    await pass()
    expect(await statusOf()).toBe(429)
    signalPid(second, 'SIGKILL')
    await until('the old process serves', async () => (await edge.status().catch(() => null))?.pid === first)
    expect(await statusOf()).toBe(429)
  })

  it.runIf(NIGHTLY)('counts the requests of all workers', async () => {
    const { edge, statusOf, pass } = await scene({ requests: 1, per: '1h', burst: 6 }, { workers: 2 })
    await edge.launch()
    await edge.logged('the workers serve')
    for (let n = 0; n < 6; n++) await pass()
    for (let n = 0; n < 6; n++) expect(await statusOf()).toBe(429)
  })
})
