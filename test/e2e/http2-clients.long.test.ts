import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { type Certificate, makeCertificate } from '../processes/certificate.js'
import { Http2RequestCounter } from '../processes/http2-request-counter.js'
import { freePort, Scene } from '../processes/scene.js'
import { has } from '../processes/toolchains.js'

const REQUESTS = 2_000
const EACH_TIME = 500
const UNDER_WAY = 20
const run = promisify(execFile)
const FETCHING = fileURLToPath(new URL('../fixtures/fetch-client.mjs', import.meta.url))
/** The major version of undici in this Node, whose fetch() uses HTTP/2 from 8 on. Node 24 has 7. */
const FETCH = Number(process.versions.undici?.split('.')[0])

interface Result {
  readonly sent: number
  readonly answered: number
}

/** The lines of test/fixtures/fetch-client.mjs. */
interface Fetched {
  readonly answered: number
  readonly failures: readonly string[]
  readonly versions: readonly string[]
}

/** Lets a client ask a server of HTTP/2 over TLS again and again, which is upgraded each time. */
async function upgradedUnder(
  ask: (url: string, scene: Scene, certificate: Certificate) => Promise<Result>,
): Promise<Result> {
  const port = await freePort()
  const scene = Scene.open({ upgrade: { probation: 0, heartbeat: 50, ready: 60_000 } })
  const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'h2' as const }]
  const certificate = makeCertificate(scene)
  const config = { ...certificate, listeners }
  await scene.serve(config)
  let sent = 0
  let answered = 0
  while (sent < REQUESTS) {
    const [result] = await Promise.all([
      ask(`https://127.0.0.1:${port}/whoami`, scene, certificate),
      scene.serve(config),
    ])
    sent += result.sent
    answered += result.answered
  }
  return { sent, answered }
}

describe('an upgrade refuses no request of 2,000', () => {
  it.skipIf(!has('curl'))('of curl, which repeats those that it has not sent', async () => {
    const { sent, answered } = await upgradedUnder(async (url, scene) => {
      const each = `url = "${url}"\noutput = /dev/null\nwrite-out = "%{http_code}\\n"\n`
      const file = scene.write('urls', each.repeat(EACH_TIME))
      const repeats = ['--retry', '3', '--retry-all-errors', '--retry-delay', '1']
      const options = ['-sk', '--http2', '-Z', '--parallel-max', String(UNDER_WAY), ...repeats]
      const { stdout } = await run('curl', [...options, '-K', file])
      return { sent: EACH_TIME, answered: stdout.split('\n').filter(line => line === '200').length }
    })
    expect(answered).toBe(sent)
  })
  it.skipIf(FETCH < 8)('of fetch with undici 8', async () => {
    const failed: string[] = []
    const { sent, answered } = await upgradedUnder(async url => {
      const args = [FETCHING, url, `${EACH_TIME}`, `${UNDER_WAY}`]
      const env = { ...process.env, NODE_TLS_REJECT_UNAUTHORIZED: '0' }
      const { stdout } = await run(process.execPath, args, { env })
      const { answered, failures, versions } = JSON.parse(stdout) as Fetched
      failed.push(...failures)
      expect(versions).toEqual(['h2'])
      return { sent: EACH_TIME, answered }
    })
    expect(failed).toEqual([])
    expect(answered).toBe(sent)
  })
  it.skipIf(!has('h2load'))('of h2load, which sends nothing more on a session that ends', async () => {
    const { sent, answered } = await upgradedUnder(async (url, _, certificate) => {
      const counter = await Http2RequestCounter.start(Number(new URL(url).port), certificate)
      // Longer than the upgrade takes.
      const slow = `${counter.url}/slow?ms=40`
      const { stdout } = await run('h2load', ['-n', `${REQUESTS}`, '-c', '4', '-m', '5', slow])
      const [, answered] = /^requests: .* (\d+) succeeded/m.exec(stdout)!
      return { sent: counter.sent, answered: Number(answered) }
    })
    expect(answered).toBe(sent)
  })
})
