import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, onTestFinished } from 'vitest'
import { startLoad } from '../../bench/referee/load.mjs'
import { LOSSES } from '../../bench/referee/verdicts.mjs'
import { get, type Request, type Workload, wrong } from '../../bench/referee/workload.mjs'
import type { StatusReport } from '../../src/operator/status-report.js'
import { rollback, stop, upgrade } from '../orders/operators.js'
import { hasEnded, launchUnrelated } from '../processes/launch.js'
import * as operator from '../processes/operator.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { type Ran, Sandbox } from './cli-processes.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const PATIENCE_MS = 15_000
/** An open-loop prober asks so often. */
const ASK_EVERY_MS = 5
/** Answers of each generation before the next one comes. */
const ANSWERS = 10

/** In the folder that is its first word. */
const IN_FOLDER = ['sh', '-c', 'cd "$1" && shift && exec "$@"', 'sh']

export interface ProgramOptions {
  /** The `node_modules`, with the package in it; else it has the package alone. */
  readonly modules?: string
  /** The environment of each process. */
  readonly env?: Readonly<Record<string, string>>
  /** Words of Node's between `node` and the file. */
  readonly words?: readonly string[]
  /** Behind the file; 8080 is the port here, too. */
  readonly args?: readonly string[]
}

export type By = 'import' | 'require' | 'options' | 'nothing'

const WORDS: Record<By, readonly string[]> = {
  import: ['node', '--import', 'fd-broker/auto'],
  require: ['node', '--require', 'fd-broker/auto'],
  options: ['env', 'NODE_OPTIONS=--import fd-broker/auto', 'node'],
  nothing: ['node'],
}

const ORDERS = { upgrade, rollback, stop } as const

/** A program that knows nothing of fd-broker, in a folder of its own with the package installed; 8080 in its text is a free port. */
export class AutoProgram {
  readonly sandbox = Sandbox.open()
  /** The service's name. A socket of this name in a folder of the machine would be preferred to one that {@link place} has not yet. */
  readonly name = `shop-${this.sandbox.folder.slice(-6)}`
  readonly port: number
  readonly file: string
  readonly #more: ProgramOptions

  static async of(text: string, file = 'server.mjs', options: ProgramOptions = {}): Promise<AutoProgram> {
    const program = new AutoProgram(await freePort(), file, options)
    if (text !== '') program.write(file, text)
    return program
  }

  private constructor(port: number, file: string, options: ProgramOptions) {
    this.port = port
    this.file = file
    this.#more = options
    const { modules } = options
    mkdirSync(join(this.sandbox.folder, 'run'), { mode: 0o700 })
    if (modules === undefined) {
      mkdirSync(join(this.sandbox.folder, 'node_modules'))
      symlinkSync(ROOT, join(this.sandbox.folder, 'node_modules/fd-broker'))
    } else symlinkSync(modules, join(this.sandbox.folder, 'node_modules'))
    this.write('package.json', JSON.stringify({ name: this.name }))
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  /** The control socket, if it is not named otherwise. */
  get control(): string {
    return this.path(`run/${this.name}.sock`)
  }

  /** The folder for its control socket. */
  get place(): { readonly RUNTIME_DIRECTORY: string } {
    return { RUNTIME_DIRECTORY: this.path('run') }
  }

  get output(): string {
    return this.sandbox.output
  }

  path(name: string): string {
    return join(this.sandbox.folder, name)
  }

  read(name: string): string {
    return existsSync(this.path(name)) ? readFileSync(this.path(name), 'utf8') : ''
  }

  write(name: string, text: string): void {
    mkdirSync(dirname(this.path(name)), { recursive: true })
    writeFileSync(this.path(name), text.replaceAll('8080', String(this.port)))
  }

  words(by: By, env: Readonly<Record<string, string>>, args: readonly string[]): string[] {
    const { words = [], args: own = [] } = this.#more
    const variables = Object.entries({ ...this.place, ...this.#more.env, ...env })
    const clean = ['env', '-u', 'VITEST', '-u', 'NODE_ENV']
    const given = own.map(word => word.replaceAll('8080', String(this.port)))
    return [
      ...IN_FOLDER,
      ...[this.sandbox.folder, ...clean, ...variables.map(([name, value]) => `${name}=${value}`)],
      ...[...WORDS[by], ...words, this.file, ...given, ...args],
    ]
  }

  /** Starts a process without a parent of ours. Resolves with its pid when it was launched. */
  launch(
    by: By = 'import',
    env: Readonly<Record<string, string>> = {},
    args: readonly string[] = [],
  ): Promise<number> {
    return launchUnrelated(this.words(by, env, args), { log: this.sandbox.log, env: this.sandbox.env })
  }

  /** Until it ends. */
  run(
    by: By = 'import',
    env: Readonly<Record<string, string>> = {},
    args: readonly string[] = [],
  ): Promise<Ran> {
    return this.sandbox.runCommand(this.words(by, env, args))
  }

  /** Launches it, and waits until it serves as this generation. */
  async serve(
    by: By = 'import',
    generation = 1,
    env: Readonly<Record<string, string>> = {},
  ): Promise<number> {
    const pid = await this.launch(by, env)
    await this.serves(generation)
    return pid
  }

  /** The pid, when that generation serves. */
  async serves(generation: number): Promise<number> {
    const { pid } = await this.statusWhere(
      `generation ${generation} serves`,
      status => status.generation === generation && status.role === 'serving',
    )
    return pid
  }

  statusWhere(what: string, holds: (status: StatusReport) => boolean): Promise<StatusReport> {
    return until(
      what,
      async () => {
        const status = await operator.status(this.control).catch(() => null)
        return status !== null && holds(status) ? status : null
      },
      PATIENCE_MS,
      () => this.output,
    )
  }

  says(text: string | RegExp): Promise<true> {
    const there = () => (typeof text === 'string' ? this.output.includes(text) : text.test(this.output))
    return until(
      `it says ${text}`,
      () => there() || null,
      PATIENCE_MS,
      () => this.output,
    )
  }

  /** Asks for `path` until that process answers: the one before it accepts from the same socket until it has closed it. */
  async answeredBy(pid: number, path = '/'): Promise<void> {
    await until(
      `process ${pid} answers`,
      async () => {
        const answer = await fetch(`${this.url}${path}`, { headers: { connection: 'close' } })
        return (await answer.text()) === `pid ${pid}` || null
      },
      PATIENCE_MS,
      () => this.output,
    )
  }

  /** The answer of its server at a Unix socket in its folder. */
  answerAt(name: string): Promise<string> {
    return new Promise((resolve, reject) => {
      http
        .get({ socketPath: this.path(name), agent: false }, response => {
          let text = ''
          response
            .setEncoding('utf8')
            .on('data', part => (text += part))
            .on('end', () => resolve(text))
        })
        .on('error', reject)
    })
  }

  /** Orders this as `fd-broker …` does, without a process for each order. Rejects if it fails. */
  async command(name: keyof typeof ORDERS): Promise<void> {
    const { pid } = await operator.status(this.control)
    await ORDERS[name](this.control)
    if (name === 'stop') await this.ends(pid)
  }

  async ends(pid: number): Promise<void> {
    await until(
      `process ${pid} ends`,
      () => hasEnded(pid) || null,
      PATIENCE_MS,
      () => this.output,
    )
  }

  /**
   * Upgrades it while clients of HTTP/1 ask, over kept and fresh connections: by its own command and by an operator's order in turn. Every
   * request must be answered by one of the generations, and each of them must have answered. `others` are asked beside `/`.
   */
  async upgradedUnderLoad(
    by: By = 'import',
    { upgrades = 3, rate = 200, others = [], settled }: UpgradeOptions = {},
  ): Promise<void> {
    const pids = new Pids(others)
    const load = startLoad({
      target: this.url,
      workload: pids,
      ...{ rate, connections: 8, freshShare: 0.2, slow: 0, streams: 0, writes: 0 },
      ...{ idle: 4, idleEveryMs: 500, deadlineMs: PATIENCE_MS },
    })
    let report: Awaited<ReturnType<typeof load.stop>> | undefined
    onTestFinished(() => {
      if (report === undefined) void load.stop()
    })
    for (let generation = 1; generation <= 1 + upgrades; generation++) {
      await this.#next(generation, by, pid => pids.by(pid))
      await settled?.()
    }
    report = await load.stop()
    const lost = [...LOSSES, 'closedIdle' as const].filter(kind => report!.total.counts[kind] > 0)
    const incidents = report.incidents.filter(({ kind }) => lost.includes(kind as never)).slice(0, 5)
    expect({ lost, incidents }, this.output).toEqual({ lost: [], incidents: [] })
  }

  /** The same with clients that have a connection for each question: `ask` resolves with the pid that the answer has in it. */
  async upgradedWhileAsked(
    ask: () => Promise<string>,
    by: By = 'import',
    { upgrades = 3 }: UpgradeOptions = {},
  ): Promise<void> {
    const answers = new Map<number, number>()
    const failures: unknown[] = []
    const open = new Set<Promise<void>>()
    const timer = setInterval(() => {
      const asked = ask().then(
        text => void answers.set(pidIn(text), (answers.get(pidIn(text)) ?? 0) + 1),
        error => void failures.push(error),
      )
      open.add(asked)
      void asked.finally(() => open.delete(asked))
    }, ASK_EVERY_MS)
    try {
      for (let generation = 1; generation <= 1 + upgrades; generation++)
        await this.#next(generation, by, pid => answers.get(pid) ?? 0)
    } finally {
      clearInterval(timer)
    }
    await Promise.all(open)
    expect(failures).toEqual([])
    expect(answers.has(0)).toBe(false)
  }

  async #next(generation: number, by: By, answersBy: (pid: number) => number): Promise<void> {
    if (generation % 2 === 0) await this.launch(by)
    else if (generation > 2) await this.command('upgrade')
    const pid = await this.serves(generation)
    await until(
      `generation ${generation} answers`,
      () => answersBy(pid) >= ANSWERS || null,
      PATIENCE_MS,
      () => this.output,
    )
  }
}

function pidIn(text: string): number {
  return Number(/\bpid (\d+)/.exec(text)?.[1] ?? 0)
}

interface UpgradeOptions {
  readonly upgrades?: number
  /** Requests a second. */
  readonly rate?: number
  /** Other requests, one after the other. */
  readonly others?: readonly Request[]
  /** Resolves when the next upgrade may come. */
  readonly settled?: () => Promise<unknown>
}

/** Answers at `/` that say `pid 4711`, counted by that. */
class Pids implements Workload {
  readonly #answers = new Map<number, number>()
  readonly #others: readonly Request[]
  #asked = 0

  constructor(others: readonly Request[]) {
    this.#others = others
  }

  readonly read = () => {
    const turn = this.#asked++ % (this.#others.length + 1)
    return this.#others[turn - 1] ?? this.#who()
  }

  readonly #who = () =>
    get('/', body => {
      const pid = pidIn(body)
      if (pid === 0) return wrong(`no pid: ${JSON.stringify(body.slice(0, 200))}`)
      this.#answers.set(pid, this.by(pid) + 1)
      return null
    })

  readonly slow = this.read
  readonly stream = this.read
  readonly write = () => null

  by(pid: number): number {
    return this.#answers.get(pid) ?? 0
  }
}
