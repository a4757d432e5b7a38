import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Ran, Sandbox } from '../e2e/cli-processes.js'
import * as operators from '../orders/operators.js'
import { hasEnded, signalPid } from './launch.js'
import { printedStatus } from './operator.js'
import { freePort } from './scene.js'
import { until } from './until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
export const PROGRAMS = fileURLToPath(new URL('../fixtures/supervised', import.meta.url))
export const SERVER = join(PROGRAMS, 'server.mjs')

/** Orders for test/fixtures/supervised/server.mjs. */
export interface Orders {
  listen?: number | string | { host: string; port: number }
  crash?: number
  crashEven?: boolean
  /** The program ends when another version has been told to end for it. */
  dies?: boolean
  /** The program counts its open connections and its wrong answers in a file. */
  counts?: boolean
  fail?: boolean
  /** The program does not listen on its given listeners. */
  elsewhere?: boolean
  deaf?: boolean
  /** The program starts a child that accepts too, and then ends with this code; null: the program goes on. */
  leaves?: { code: number | null; detached?: boolean; clean?: boolean; child?: Orders }
  code?: number
  release?: string
}

/** One line of the supervisor's log. */
// biome-ignore lint/suspicious/noExplicitAny: whatever was logged
type Line = Record<string, any>

/** `fd-broker run` with a listener named `web`, in a folder of its own; all of it ends with the test. */
export class Supervised {
  readonly sandbox = Sandbox.open()
  readonly control: string
  readonly port: number
  /** The output of the programs, a line each. */
  readonly said = join(this.sandbox.folder, 'said')
  pid = 0

  private constructor(port: number) {
    mkdirSync(join(this.sandbox.folder, 'run'), { mode: 0o700 })
    this.control = join(this.sandbox.folder, 'run', 'run.sock')
    this.port = port
  }

  static async prepare(): Promise<Supervised> {
    return new Supervised(await freePort())
  }

  /** Starts it, and waits until a version serves. */
  static async start(
    args: readonly string[] = [],
    command: readonly string[] = [SERVER],
    env: NodeJS.ProcessEnv = {},
  ): Promise<Supervised> {
    const run = await Supervised.prepare()
    await run.launch(args, command, env)
    await run.serving()
    return run
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  get output(): string {
    return this.sandbox.output
  }

  /** The command line of the supervisor. */
  commandLine(args: readonly string[], command: readonly string[]): string[] {
    const listen = args.includes('--config') ? [] : ['--listen', `web=tcp://127.0.0.1:${this.port}`]
    const own = [process.execPath, CLI, 'run', '--control', this.control, ...listen, ...args]
    return [...own, '--', ...command]
  }

  async launch(
    args: readonly string[] = [],
    command: readonly string[] = [SERVER],
    env: NodeJS.ProcessEnv = {},
    wrap: readonly string[] = [],
  ): Promise<number> {
    const given = Object.entries({ FDB_SUPERVISED: this.orders({}), ...env }).map(
      ([name, value]) => `${name}=${value}`,
    )
    this.pid = await this.sandbox.launch([...wrap, 'env', ...given, ...this.commandLine(args, command)])
    return this.pid
  }

  /** The value of FDB_SUPERVISED. */
  orders(orders: Orders): string {
    return JSON.stringify({ log: this.said, ...orders })
  }

  /** Waits until a version serves; its pid. */
  async serving(generation = 1): Promise<number> {
    const { child } = await this.logged('a version serves', line => line.version >= generation)
    return child
  }

  get lines(): Line[] {
    return this.output
      .split('\n')
      .filter(line => line.startsWith('{'))
      .map(line => JSON.parse(line) as Line)
  }

  async logged(message: string, holds: (line: Line) => boolean = () => true): Promise<Line> {
    return await until(
      `the log says: ${message}`,
      () => this.lines.find(line => line.msg === message && holds(line)),
      20_000,
      () => this.output,
    )
  }

  /** Waits until one of its programs says this. */
  async says(text: string): Promise<void> {
    await until(
      `a program says ${text}`,
      () => existsSync(this.said) && readFileSync(this.said, 'utf8').includes(text),
      10_000,
      () => (existsSync(this.said) ? readFileSync(this.said, 'utf8') : this.output),
    )
  }

  /** Orders an upgrade as {@link upgrade} does, without a process for the order. Rejects if it fails. */
  async upgraded(): Promise<void> {
    await operators.upgrade(this.control)
  }

  upgrade(...args: string[]): Promise<Ran> {
    return this.sandbox.run('upgrade', '--control', this.control, ...args)
  }

  // biome-ignore lint/suspicious/noExplicitAny: as it is printed
  status(): Promise<any> {
    return printedStatus(this.control)
  }

  signal(signal: NodeJS.Signals, pid = this.pid): void {
    signalPid(pid, signal)
  }

  async ended(pid = this.pid): Promise<void> {
    await until(
      `process ${pid} ends`,
      () => hasEnded(pid),
      20_000,
      () => this.output,
    )
  }

  /** `generation,pid` of who answers. */
  async whoami(): Promise<{ generation: number; pid: number }> {
    const response = await fetch(`${this.url}/whoami`, { headers: { connection: 'close' } })
    const [generation, pid] = (await response.text()).split(',').map(Number)
    return { generation: generation!, pid: pid! }
  }
}
