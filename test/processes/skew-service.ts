import { readFileSync } from 'node:fs'
import { Agent } from 'node:http'
import { expect, onTestFinished } from 'vitest'
import type { StatusReport } from '../../src/operator/status-report.js'
import { Sandbox } from '../e2e/cli-processes.js'
import { ask } from './client.js'
import type { Version } from './release.js'
import { freePort } from './scene.js'
import { pause, until } from './until.js'

const DAEMON = new URL('../fixtures/skew-daemon.mjs', import.meta.url)
const MEMBER = new URL('../fixtures/skew-member.mjs', import.meta.url)
export interface Item {
  name: string
  cents: number
  tags?: string[]
  origin?: { country: string }
}

/** The service of test/fixtures/skew-member.mjs, whose generations run what a test says. */
export class Service {
  readonly sandbox = Sandbox.open()
  /** For members that are started from now on; versions without state files do without. */
  stateFile = ''
  readonly #hosting: 'embedded' | 'daemon'
  readonly #port: number
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 8 })

  private constructor(port: number, hosting: 'embedded' | 'daemon') {
    this.#port = port
    this.#hosting = hosting
    onTestFinished(() => this.#agent.destroy())
  }

  static async open(hosting: 'embedded' | 'daemon' = 'embedded'): Promise<Service> {
    return new Service(await freePort(), hosting)
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`
  }

  launch(version: Version, schema: number, ...more: string[]): Promise<number> {
    const args = [this.sandbox.control, `${this.#port}`, `${schema}`, this.#hosting, ...more]
    const env = ['/usr/bin/env', `SKEW_STATE_FILE=${this.stateFile}`]
    return this.sandbox.launch([...env, ...version.program(MEMBER), ...args])
  }

  /** A daemon on its control path, listening. */
  async daemon(version: Version): Promise<number> {
    const pid = await this.sandbox.launch([...version.program(DAEMON), this.sandbox.control])
    await this.said(pid, 'listening')
    return pid
  }

  /** Another generation serves. One that comes while the one before is coming back to a new daemon is told to try again, and does. */
  async next(version: Version, schema: number): Promise<number> {
    const pid = await until(
      'another generation serves',
      async () => {
        const pid = await this.launch(version, schema)
        const { msg, message } = await this.said(pid, 'serving', 'failed')
        if (msg === 'serving') return pid
        expect(message).toContain('a handoff is under way (phase returning')
        return null
      },
      20_000,
      () => this.sandbox.output,
    )
    expect(readFileSync(`/proc/${pid}/cmdline`, 'utf8')).toContain(version.program(MEMBER).at(-1))
    return pid
  }

  // biome-ignore lint/suspicious/noExplicitAny: whatever the fixture says
  said(pid: number, ...msgs: string[]): Promise<any> {
    return until(
      `process ${pid} says "${msgs.join('" or "')}"`,
      () =>
        this.sandbox.output
          .split('\n')
          .filter(line => line.endsWith('}'))
          .map(line => JSON.parse(line))
          .find(line => line.pid === pid && msgs.includes(line.msg)),
      20_000,
      () => this.sandbox.output,
    )
  }

  /** The number of changes by which versions have written entries that they migrate. Each such change has several entries. */
  get migrations(): number {
    const lines = this.sandbox.output
      .split('\n')
      .filter(line => line.startsWith('{"msg":"migrated"') && line.endsWith('}'))
    return lines.reduce((sum, line) => sum + JSON.parse(line).changes, 0)
  }

  /** The body of a 200; a change that came too late for the process that was asked is made again. */
  async ask(path: string, method = 'GET', body: unknown = undefined, id = ''): Promise<string> {
    const headers: Record<string, string> = id === '' ? {} : { 'x-request-id': id }
    for (;;) {
      const url = `${this.url}${path}`
      const text = body === undefined ? '' : JSON.stringify(body)
      const answer = await ask(url, { method, body: text, headers, agent: this.#agent }).answer
      if (answer.status === 200) return answer.body
      if (answer.status !== 503) throw new Error(`${method} ${path}: ${answer.status} ${answer.body}`)
    }
  }

  /** The entries of the serving process. */
  async all<T>(section: string): Promise<Record<string, T>> {
    return JSON.parse(await this.#fresh(`/${section}`)) as Record<string, T>
  }

  async status(): Promise<StatusReport> {
    return JSON.parse(await this.#fresh('/status')) as StatusReport
  }

  /** On a connection of its own: kept ones may be those of a generation that drains. */
  async #fresh(path: string): Promise<string> {
    const { status, body } = await ask(`${this.url}${path}`).answer
    expect(status).toBe(200)
    return body
  }
}

/** Clients that put and delete without end, each change under an id of its own. */
export class Clients {
  readonly there = new Map<string, number>()
  readonly gone = new Set<string>()
  changes = 0
  #running = true
  readonly #all: Promise<unknown>

  /** Each waits `restMs` between two changes. */
  constructor(service: Service, count: number, { restMs = 0 } = {}) {
    const client = async (name: number) => {
      for (let n = 1; this.#running; n++) {
        const key = `c${name}-${n}`
        await service.ask(`/items/${key}`, 'PUT', { name: key, cents: n }, `put ${key}`)
        this.there.set(key, n)
        this.changes++
        if (restMs > 0) await pause(restMs)
        if (n % 4 !== 0) continue
        const old = `c${name}-${n - 2}`
        await service.ask(`/items/${old}`, 'DELETE', undefined, `delete ${old}`)
        this.there.delete(old)
        this.gone.add(old)
        this.changes++
      }
    }
    this.#all = Promise.all(Array.from({ length: count }, (_, name) => client(name)))
    this.#all.catch(() => {})
    onTestFinished(() => void (this.#running = false))
  }

  async goOn(): Promise<void> {
    const before = this.changes
    const failed = this.#all.then(() => {})
    await Promise.race([failed, until('changes go on', () => this.changes > before + 50)])
  }

  async stop(): Promise<void> {
    this.#running = false
    await this.#all
  }
}
