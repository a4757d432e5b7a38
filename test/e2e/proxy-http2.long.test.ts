import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { Edge, upstream } from '../processes/edge.js'
import { Http2Client } from '../processes/http2-client.js'
import { Http2RequestCounter } from '../processes/http2-request-counter.js'
import { hasEnded } from '../processes/launch.js'
import { freePort } from '../processes/scene.js'
import { has } from '../processes/toolchains.js'
import { until } from '../processes/until.js'

const run = promisify(execFile)
const UPGRADES = 20
const PER_SECOND = 1_000
const EACH_TIME = 500
const UNDER_WAY = 20

/** A proxy with a listener with TLS and one without, both with HTTP/2, which is upgraded. */
async function edge(config: object = {}) {
  const app = await upstream()
  const proxy = await Edge.prepare({
    upstreams: { app: { servers: [app.url] } },
    routes: [{ host: '*', upstream: 'app' }],
    upgrade: { probation: '0s' },
    instanceHeader: 'X-Pid',
    ...config,
  })
  const securePort = await freePort()
  const certificate = proxy.issue('localhost')
  proxy.write({
    listeners: [
      { name: 'http', address: `tcp://127.0.0.1:${proxy.port}`, http2: true },
      { name: 'https', address: `tcp://127.0.0.1:${securePort}`, tls: true, http2: true },
    ],
    tls: { certificates: [certificate] },
  })
  await proxy.next()
  return {
    proxy,
    certificate,
    securePort,
    secure: `https://127.0.0.1:${securePort}`,
    async upgrade() {
      const old = await proxy.pid
      await proxy.next()
      await until('the one before has ended', () => hasEnded(old), 20_000)
    },
  }
}

describe(`${UPGRADES} upgrades`, () => {
  it.each(['http', 'https'])(
    `refuse no request of Node's client over %s, at ${PER_SECOND} a second`,
    async scheme => {
      const { proxy, secure, upgrade } = await edge()
      const url = scheme === 'http' ? proxy.url : secure
      const client = new Http2Client(url, { path: '/r/1', perSecond: PER_SECOND })
      const begun = performance.now()
      for (let i = 0; i < UPGRADES; i++) {
        const before = client.counts.answered
        await until('answers', () => client.counts.answered > before + PER_SECOND / 2, 20_000)
        await upgrade()
      }
      const { answered, unsent: _, ...losses } = await client.end()
      expect(losses).toEqual({ failed: [], brokenSessions: [] })
      expect(answered).toBeGreaterThan((0.9 * PER_SECOND * (performance.now() - begun)) / 1_000)
    },
  )

  it('and rollbacks refuse no request either', async () => {
    const { proxy, secure } = await edge({ upgrade: { probation: '1m' } })
    const client = new Http2Client(secure, { path: '/r/1', perSecond: PER_SECOND })
    const first = await proxy.pid
    for (let i = 0; i < UPGRADES / 4; i++) {
      const next = await proxy.next()
      await until('its answers', () => client.answersBy(next) > PER_SECOND / 4)
      const before = client.answersBy(first)
      await proxy.sandbox.run('rollback', '--control', proxy.sandbox.control)
      await until('answers of the first', () => client.answersBy(first) > before + PER_SECOND / 4)
    }
    const { unsent: _, answered, ...losses } = await client.end()
    expect(losses).toEqual({ failed: [], brokenSessions: [] })
    expect(answered).toBeGreaterThan(PER_SECOND)
  })

  it.skipIf(!has('curl'))('refuse no request of curl, which repeats those that it has not sent', async () => {
    const { proxy, secure, upgrade } = await edge()
    let answered = 0
    for (let i = 0; i < UPGRADES; i++) {
      const each = `url = "${secure}/r/1"\noutput = /dev/null\nwrite-out = "%{http_code} %{http_version}\\n"\n`
      const file = proxy.sandbox.file('urls')
      writeFileSync(file, each.repeat(EACH_TIME))
      const repeats = ['--retry', '3', '--retry-all-errors', '--retry-delay', '1']
      const options = ['-sk', '--http2', '-Z', '--parallel-max', `${UNDER_WAY}`, ...repeats, '-K', file]
      const [{ stdout }] = await Promise.all([run('curl', options), upgrade()])
      answered += stdout.split('\n').filter(line => line === '200 2').length
    }
    expect(answered).toBe(UPGRADES * EACH_TIME)
  })

  it.skipIf(!has('h2load'))(
    'refuse no request of h2load, which sends nothing more on a session that ends',
    async () => {
      const { securePort, certificate, upgrade } = await edge()
      const counter = await Http2RequestCounter.start(securePort, certificate)
      let answered = 0
      for (let i = 0; i < UPGRADES; i++) {
        // Longer than the upgrade takes.
        const load = run('h2load', ['-n', '60', '-c', '4', '-m', '5', `${counter.url}/slow`])
        const [{ stdout }] = await Promise.all([load, upgrade()])
        const [, succeeded] = /^requests: .* (\d+) succeeded/m.exec(stdout)!
        answered += Number(succeeded)
      }
      expect(answered).toBe(counter.sent)
      expect(answered).toBeGreaterThan(UPGRADES)
    },
  )
})
