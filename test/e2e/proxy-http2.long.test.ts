import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { describe, expect, it, onTestFinished } from 'vitest'
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

  it.skipIf(!has('curl'))('refuse no request of curl, of which none is sent twice', async () => {
    const { proxy, securePort, certificate, upgrade } = await edge()
    const counter = await Http2RequestCounter.start(securePort, certificate)
    const says = '%{http_code} %{http_version}, sent %{size_request}: %{errormsg}'
    const each = `url = "${counter.url}/r/1"\noutput = /dev/null\nwrite-out = "${says}\\n"\n`
    const file = proxy.sandbox.file('urls')
    writeFileSync(file, each.repeat(EACH_TIME))
    const told: string[] = []
    let goesOn = true
    const load = async () => {
      while (goesOn) {
        const options = ['-sk', '--http2', '-Z', '--parallel-max', `${UNDER_WAY}`, '-K', file]
        // The status of curl tells of the last failure only, its lines of all.
        const { stdout } = await run('curl', options).catch((error: { stdout: string }) => error)
        told.push(...stdout.trimEnd().split('\n'))
      }
    }
    const loaded = load()
    for (let i = 0; i < UPGRADES; i++) {
      const before = told.length
      await upgrade()
      await until('answers', () => told.length > before, 20_000)
    }
    goesOn = false
    await loaded
    const unanswered = told.filter(line => !line.startsWith('200 2,'))
    // Curl fails a request itself, unsent, if the session ends just before.
    expect(unanswered.filter(line => !line.includes(', sent 0:'))).toEqual([])
    expect(unanswered.length).toBeLessThan(told.length / 100)
    // Curl repeats requests itself if their session dies.
    expect(counter.sent).toBe(told.length - unanswered.length)
  })

  it.skipIf(!has('h2load'))(
    'refuse no request of h2load whose answer is slow; it sends nothing more on a session that ends',
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

  it.skipIf(!has('h2load'))(
    `refuse no request of h2load, at ${PER_SECOND} a second, in runs one after the other`,
    async () => {
      const { securePort, certificate, upgrade } = await edge()
      const counter = await Http2RequestCounter.start(securePort, certificate)
      const begun = performance.now()
      const load = new H2load(`${counter.url}/r/1`)
      for (let i = 0; i < UPGRADES; i++) {
        const before = load.answered
        await upgrade()
        await until('answers', () => load.answered > before + PER_SECOND / 2, 20_000)
      }
      await load.end()
      expect(load.unsuccessful).toEqual([])
      expect(load.answered).toBe(counter.sent)
      expect(load.answered).toBeGreaterThan((PER_SECOND * (performance.now() - begun)) / 1_000)
    },
  )
})

/** Runs of h2load, each of which has four sessions: it opens none in the place of one that ends. */
class H2load {
  /** Answers that say success. */
  answered = 0
  /** Lines of runs about other answers. */
  readonly unsuccessful: string[] = []
  #goesOn = true
  readonly #runs: readonly Promise<void>[]

  constructor(url: string) {
    onTestFinished(() => {
      this.#goesOn = false
    })
    this.#runs = Array.from({ length: 4 }, () => this.#run(url))
  }

  async #run(url: string): Promise<void> {
    while (this.#goesOn) {
      const { stdout } = await run('h2load', ['-n', '120', '-c', '4', '-m', '50', '--rps', '150', url])
      const [, succeeded] = /^requests: .* (\d+) succeeded/m.exec(stdout)!
      this.answered += Number(succeeded)
      const [codes = ''] = /^status codes: .*/m.exec(stdout)!
      if (!codes.endsWith(' 2xx, 0 3xx, 0 4xx, 0 5xx')) this.unsuccessful.push(codes)
    }
  }

  async end(): Promise<void> {
    this.#goesOn = false
    await Promise.all(this.#runs)
  }
}
