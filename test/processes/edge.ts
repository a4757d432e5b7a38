import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import type { Server } from 'node:http'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { WebSocket } from 'ws'
import { startUpstream } from '../../bench/proxy/upstream.mjs'
import type { StatusReport } from '../../src/operator/status-report.js'
import { type Ran, Sandbox } from '../e2e/cli-processes.js'
import { type Certificate, issue } from './certificate.js'
import { hasEnded, signalPid } from './launch.js'
import * as operator from './operator.js'
import { present, type Version } from './release.js'
import { freePort } from './scene.js'
import { until } from './until.js'

export interface Upstream {
  readonly url: string
  readonly server: Server
  close(): void
}

/** A server of bench/proxy/upstream.mjs in this process, closed with the test. */
export async function upstream(name = 'app'): Promise<Upstream> {
  const { port, server, close } = await startUpstream(name)
  onTestFinished(close)
  return { url: `http://127.0.0.1:${port}`, server, close }
}

/** One line that a proxy logged, or of its access log. */
// biome-ignore lint/suspicious/noExplicitAny: whatever was logged
export type Line = Record<string, any>

export type Config = Record<string, unknown>

/** A proxy in processes of its own, its folder and its configuration file; all ends with the test. */
export class Edge {
  readonly sandbox = Sandbox.open()
  readonly port: number
  readonly file = join(this.sandbox.folder, 'edge.json')
  config: Config

  private constructor(port: number, config: Config) {
    this.port = port
    this.config = {
      service: 'edge',
      control: this.sandbox.control,
      instanceHeader: 'X-Pid',
      listeners: [{ name: 'http', address: `tcp://127.0.0.1:${port}` }],
      ...config,
    }
    this.write()
  }

  /** Resolves when the first generation serves. */
  static async start(config: Config, version: Version = present): Promise<Edge> {
    const edge = await Edge.prepare(config)
    await edge.next(version)
    return edge
  }

  static async prepare(config: Config): Promise<Edge> {
    return new Edge(await freePort(), config)
  }

  /** A certificate in its folder, see {@link issue}. */
  issue(name: string, dns?: readonly string[], kind?: string): Certificate {
    return issue(this.sandbox.folder, name, dns, kind)
  }

  /** The keys of its file for TLS on its port. */
  secured(certificates: readonly object[], rest: object = {}): Config {
    return {
      listeners: [{ name: 'http', address: `tcp://127.0.0.1:${this.port}`, tls: true }],
      tls: { certificates, ...rest },
    }
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  /** Writes the file, with these keys changed. */
  write(changes: Config = {}): void {
    this.config = { ...this.config, ...changes }
    writeFileSync(this.file, JSON.stringify(this.config, null, 2))
  }

  launch(version: Version = present, ...flags: string[]): Promise<number> {
    return this.sandbox.launch([...version.cli, 'proxy', '--config', this.file, ...flags])
  }

  /** Starts another process, and waits until it serves. */
  async next(version: Version = present): Promise<number> {
    const pid = await this.launch(version)
    await this.serving(pid)
    return pid
  }

  async serving(pid: number): Promise<void> {
    await this.logged('the proxy serves', line => line.pid === pid)
  }

  status(): Promise<StatusReport> {
    return operator.status(this.sandbox.control)
  }

  /** A change is in the state file some 10 ms after it was acknowledged, and the first one once the file is on the disk. */
  async stateWritten(): Promise<void> {
    await until('the state file has all', async () => (await this.status()).state.file?.behindBytes === 0)
  }

  get pid(): Promise<number> {
    return this.status().then(({ pid }) => pid)
  }

  /** JSON lines of all generations, of the log and of the access log. */
  get lines(): Line[] {
    if (!existsSync(this.sandbox.log)) return []
    const text = readFileSync(this.sandbox.log, 'utf8')
    return text
      .slice(0, text.lastIndexOf('\n') + 1)
      .split('\n')
      .filter(line => line.startsWith('{'))
      .map(line => JSON.parse(line) as Line)
  }

  /** The first line with that message. */
  logged(message: string, holds: (line: Line) => boolean = () => true, ms = 15_000): Promise<Line> {
    return until(
      `the log says "${message}"`,
      () => this.lines.find(line => line.msg === message && holds(line)),
      ms,
      () => this.sandbox.output,
    )
  }

  access(holds: (line: Line) => boolean): Promise<Line> {
    return this.logged('request', holds)
  }

  /** Sends a signal to the serving process, or to `pid`. */
  async signal(name: NodeJS.Signals, pid?: number): Promise<void> {
    signalPid(pid ?? (await this.pid), name)
  }

  /** HUP, and waits for its outcome. */
  async reload(changes: Config): Promise<Line> {
    this.write(changes)
    const done = () =>
      this.lines.filter(
        ({ msg }) =>
          msg === 'the configuration was read again' || String(msg).startsWith('the configuration was not'),
      )
    const before = done().length
    await this.signal('SIGHUP')
    return until(
      'the reload is over',
      () => done()[before],
      15_000,
      () => this.sandbox.output,
    )
  }

  /** `fd-broker routes …`. */
  routes(command: 'list' | 'add' | 'remove', ...args: string[]): Promise<Ran> {
    return this.sandbox.run('routes', command, '--control', this.sandbox.control, ...args)
  }

  async ended(pid: number, ms = 10_000): Promise<void> {
    await until(
      `process ${pid} ends`,
      () => hasEnded(pid),
      ms,
      () => this.sandbox.output,
    )
  }

  /** A WebSocket through it to the upstream, which repeats what it hears. */
  async talking() {
    const socket = new WebSocket(`${this.url.replace('http', 'ws')}/ws`, { perMessageDeflate: false })
    onTestFinished(() => socket.terminate())
    const heard: string[] = []
    socket.on('message', data => heard.push(String(data)))
    await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
    return {
      socket,
      async says(text: string) {
        socket.send(text)
        await until('the echo comes', () => heard.includes(text))
      },
    }
  }

  raw(port = this.port): Promise<Raw> {
    return Raw.open(port)
  }
}

/** A client's connection, byte by byte. */
export class Raw {
  readonly socket: Socket
  #text = ''
  ended = false

  private constructor(socket: Socket) {
    this.socket = socket
    socket.setEncoding('latin1').on('data', text => (this.#text += text))
    const end = () => {
      this.ended = true
      socket.end()
    }
    socket.on('end', end).on('error', end)
    onTestFinished(() => void socket.destroy())
  }

  static open(port: number): Promise<Raw> {
    return new Promise((resolve, reject) => {
      const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true }, () => resolve(new Raw(socket)))
      socket.once('error', reject)
    })
  }

  get text(): string {
    return this.#text
  }

  send(text: string): this {
    this.socket.write(text, 'latin1')
    return this
  }

  /** Takes what has come, once `holds` for it. */
  async until(holds: (text: string) => boolean): Promise<string> {
    await until(
      'the answer comes',
      () => holds(this.#text),
      10_000,
      () => JSON.stringify(this.#text.slice(0, 2000)),
    )
    const text = this.#text
    this.#text = ''
    return text
  }

  /** All that comes until the server ends the connection. */
  async toTheEnd(): Promise<string> {
    await until(
      'the server ends the connection',
      () => this.ended,
      10_000,
      () => JSON.stringify(this.#text.slice(0, 2000)),
    )
    return this.#text
  }
}
