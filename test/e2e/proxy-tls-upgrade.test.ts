import { Agent, get } from 'node:https'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { Edge, upstream } from '../processes/edge.js'
import { hasEnded } from '../processes/launch.js'
import { askTls } from '../processes/tls-client.js'
import { until } from '../processes/until.js'

const VERSIONS = perLane<('TLSv1.2' | 'TLSv1.3')[]>(['TLSv1.3'], ['TLSv1.2', 'TLSv1.3'])
const UPGRADES = perLane(1, 3)
const NAMES = [undefined, 'a.test', 'sub.b.test']

/** A connection of its own, for which no other waits. */
const askOnce: typeof askTls = async (port, options) => {
  const answer = await askTls(port, options)
  answer.socket.destroy()
  return answer
}

async function secured(rest: object = {}) {
  const app = await upstream()
  const edge = await Edge.prepare({
    upstreams: { app: { servers: [app.url] } },
    routes: [{ host: '*', upstream: 'app' }],
    upgrade: { probation: '0s' },
    drain: { timeout: '1m' },
  })
  const certificates = [
    edge.issue('localhost'),
    edge.issue('a.test', ['a.test']),
    edge.issue('b', ['*.b.test']),
  ]
  edge.write(edge.secured(certificates, rest))
  const first = await edge.next()
  /** The next version serves, and the one before accepts no more. */
  const upgrade = async () => {
    const before = await edge.pid
    const pid = await edge.next()
    await until('the one before has ended', () => hasEnded(before), 20_000)
    return pid
  }
  return { edge, first, upgrade }
}

/** Clients that keep their connection, one request after the other; a request is never tried again. */
function keepAsking(port: number, clients: number) {
  let going = true
  const answers: Record<string, number> = {}
  const failures: string[] = []
  const ask = (agent: Agent) =>
    new Promise<string>((resolve, reject) => {
      get({ port, host: '127.0.0.1', path: '/r/5', agent }, async answer => {
        const body = await text(answer)
        if (answer.statusCode !== 200 || body !== '5 item-5\n')
          reject(new Error(`${answer.statusCode} ${body}`))
        else resolve(String(answer.headers['x-pid']))
      }).on('error', reject)
    })
  const all = Array.from({ length: clients }, async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1, rejectUnauthorized: false })
    while (going) {
      try {
        const pid = await ask(agent)
        answers[pid] = (answers[pid] ?? 0) + 1
      } catch (error) {
        failures.push(String(error))
      }
    }
    agent.destroy()
  })
  onTestFinished(() => {
    going = false
  })
  return {
    answers,
    async stop() {
      going = false
      await Promise.all(all)
      return failures
    },
  }
}

describe('an upgrade of the proxy under TLS', () => {
  it(`fails no request, ${UPGRADES} times`, async () => {
    const { edge, first } = await secured()
    const load = keepAsking(edge.port, perLane(4, 12))
    const pids = [first]
    for (let n = 0; n < UPGRADES; n++) {
      await until(`process ${pids.at(-1)} answers`, () => (load.answers[pids.at(-1)!] ?? 0) > 100, 20_000)
      pids.push(await edge.next())
      // The clients are told on their next answer, and then it is empty.
      await until('the one before has ended', () => hasEnded(pids.at(-2)!), 20_000)
    }
    await until('the last one answers', () => (load.answers[pids.at(-1)!] ?? 0) > 100, 20_000)
    expect(await load.stop()).toEqual([])
    expect(edge.lines.filter(({ msg }) => /did not end in time/.test(String(msg)))).toEqual([])
  })

  it('waits for a connection that is idle, and answers it once more', async () => {
    const { edge, first } = await secured()
    const client = await askTls(edge.port, { path: '/r/1' })
    const pid = await edge.next()
    await until('it drains with one connection', async () => {
      const { draining } = await edge.status()
      return draining.some(older => older.pid === first && older.connections === 1)
    })
    let more = ''
    client.socket.on('data', chunk => (more += chunk))
    client.socket.write('GET /r/2 HTTP/1.1\r\nHost: a\r\n\r\n')
    await until('the answer comes', () => more.includes('2 item-2'))
    expect(more).toMatch(/connection: close/i)
    expect(more).toContain(String(first))
    await edge.ended(first)
    const next = await askOnce(edge.port, { path: '/r/3', session: client.session })
    expect(next.text).toContain(String(pid))
    expect(next.reused).toBe(true)
  })

  it.each(VERSIONS)('resumes %s sessions of the first process in the fourth', async version => {
    const limits = { minVersion: version, maxVersion: version }
    const { edge, upgrade } = await secured()
    const ask = (servername: string | undefined, session?: Buffer) =>
      askOnce(edge.port, { ...limits, ...(servername && { servername }), ...(session && { session }) })
    const sessions = new Map<string | undefined, Buffer>()
    for (const name of NAMES) {
      const first = await ask(name)
      sessions.set(name, first.session)
      expect([name, (await ask(name, first.session)).reused]).toEqual([name, true])
    }
    for (let n = 0; n < 3; n++) {
      const pid = await upgrade()
      for (const name of NAMES) {
        const { reused, text } = await ask(name, sessions.get(name))
        expect([name, reused]).toEqual([name, true])
        expect(text).toContain(String(pid))
      }
    }
  })

  it.runIf(NIGHTLY)('rotates the keys for session tickets', async () => {
    const { edge, upgrade } = await secured({ rotateTicketKeys: '2s' })
    const { session } = await askOnce(edge.port)
    await until('the keys are rotated', async () => !(await askOnce(edge.port, { session })).reused, 20_000)
    const slower = edge.secured((edge.config.tls as { certificates: object[] }).certificates)
    expect((await edge.reload(slower)).level).toBe(30)
    const next = await askOnce(edge.port)
    await upgrade()
    expect((await askOnce(edge.port, { session: next.session })).reused).toBe(true)
  })

  it('puts no key into the log, and none into what the tools show unasked', async () => {
    const { edge, upgrade } = await secured()
    await askOnce(edge.port)
    await upgrade()
    const { stdout } = await edge.sandbox.run('state', 'show', '--control', edge.sandbox.control)
    const shown = stdout
      .split('\n')
      .filter(line => line.includes('"ticketKeys"'))
      .map(line => JSON.parse(line))
    expect(shown).toEqual([expect.objectContaining({ key: 'proxy', redacted: true })])
    const asked = await edge.sandbox.run('state', 'show', '--secrets', '--control', edge.sandbox.control)
    expect(asked.stdout).not.toContain('redacted')
    expect(edge.sandbox.output + stdout).not.toMatch(/PRIVATE KEY/)
  })
})
