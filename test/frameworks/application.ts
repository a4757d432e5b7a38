import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { expect, onTestFinished } from 'vitest'
import { startLoad } from '../../bench/referee/load.mjs'
import { LOSSES } from '../../bench/referee/verdicts.mjs'
import { OperatorClient } from '../../src/operator/client.js'
import { type Ran, Sandbox } from '../e2e/cli-processes.js'
import { hasEnded } from '../processes/launch.js'
import * as operator from '../processes/operator.js'
import { freePort } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { Greeting } from './greeting.js'

/** The port of the pages' programs. */
const PORT = '8080'
/** Where those have their sockets that do not have them in their own folder. */
const RUN = '/run/shop/'
const UPGRADES = 3
/** Answers of each generation, before the next one comes. */
const ANSWERS = 20
/** A slow machine takes its time; a request that comes later was lost. */
const PATIENCE_MS = 20_000

/** In the folder that is its first word; the process is the command's own. */
export const IN_FOLDER = [
  'env',
  '-u',
  'NODE_ENV',
  '-u',
  'VITEST',
  'sh',
  '-c',
  'cd "$1" && shift && exec "$@"',
  'sh',
]

/** A program of a page, as the page shows it but for its port and /run/shop, in a folder of its own. All of it ends with the test. */
export class Application {
  readonly sandbox = Sandbox.open()
  readonly port: number

  private constructor(port: number) {
    this.port = port
  }

  /** `modules`: its `node_modules`. */
  static async with(files: Readonly<Record<string, string>>, modules: string): Promise<Application> {
    const application = new Application(await freePort())
    symlinkSync(modules, join(application.folder, 'node_modules'))
    for (const [name, text] of Object.entries(files)) application.write(name, text)
    return application
  }

  get folder(): string {
    return this.sandbox.folder
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  write(name: string, text: string): void {
    const path = join(this.folder, name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, this.here(text))
  }

  /** With this application's port and folder. */
  here(text: string): string {
    return text.replaceAll(PORT, String(this.port)).replaceAll(RUN, join(this.folder, 'run/'))
  }

  /** Starts a command without a parent of ours, with the folder as its own; returns its pid. */
  launch(...command: string[]): Promise<number> {
    return this.sandbox.launch([...IN_FOLDER, this.folder, ...command])
  }

  /** A line of a shell, with what is installed, until it ends. */
  run(line: string): Promise<Ran> {
    const path = `PATH=${join(this.folder, 'node_modules/.bin')}:${process.env.PATH}`
    const own = ['env', path, `PM2_HOME=${join(this.folder, '.pm2')}`, 'sh', '-c', line]
    return this.sandbox.runCommand([...IN_FOLDER, this.folder, ...own])
  }

  /** A member of a service that is upgraded over this path in the folder. */
  service(control = 'run/upgrade.sock'): Service {
    return new Service(this, join(this.folder, control))
  }

  /** Starts it, and waits until it serves. */
  async serve(...command: string[]): Promise<Service> {
    await this.launch(...command)
    const service = this.service()
    await service.serves(1)
    return service
  }

  /**
   * Load on its port while `upgrade` is called for each of the generations that come after the one that serves: no request may be lost,
   * and each generation answers. `fresh`: every request has a connection of its own.
   */
  async underLoad(
    upgrade: (generation: number) => Promise<unknown>,
    { fresh = false } = {},
  ): Promise<Greeting> {
    const greeting = new Greeting()
    const load = startLoad({
      target: this.url,
      workload: greeting,
      ...{ rate: 200, connections: 12, freshShare: fresh ? 1 : 0.2, slow: 0, streams: 0, writes: 0 },
      ...{ idle: fresh ? 0 : 8, idleEveryMs: 500, deadlineMs: PATIENCE_MS },
    })
    let report: Awaited<ReturnType<typeof load.stop>> | undefined
    onTestFinished(() => {
      if (report === undefined) void load.stop()
    })
    for (let generation = 1; generation <= 1 + UPGRADES; generation++) {
      if (generation > 1) await upgrade(generation)
      await until(
        `generation ${generation} answers`,
        () => greeting.by(generation) >= ANSWERS,
        PATIENCE_MS,
        () => `${JSON.stringify([...greeting.answers])}\n${this.sandbox.output}`,
      )
    }
    report = await load.stop()
    const lost = LOSSES.filter(kind => report!.total.counts[kind] > 0)
    const incidents = report.incidents.filter(({ kind }) => lost.includes(kind as never)).slice(0, 5)
    expect({ lost, incidents }).toEqual({ lost: [], incidents: [] })
    return greeting
  }

  /** Waits until a process answers on the port. */
  async answers(): Promise<void> {
    await until(
      `${this.url} answers`,
      () =>
        fetch(this.url).then(
          ({ ok }) => ok,
          () => false,
        ),
      PATIENCE_MS,
      () => this.sandbox.output,
    )
  }

  /** This process has. */
  async endedBy(pid: number): Promise<void> {
    await until(
      `process ${pid} ends`,
      () => hasEnded(pid),
      PATIENCE_MS,
      () => this.sandbox.output,
    )
  }

  /** TERM to every process, as systemd stops a unit: the serving one alone would hand back to its standby. */
  async stop(): Promise<void> {
    this.sandbox.signal('SIGTERM')
    await this.ended()
  }

  /** All that it has started has ended. */
  async ended(): Promise<void> {
    await until(
      'every process ends',
      () => this.sandbox.processes().length === 0,
      PATIENCE_MS,
      () => `${this.sandbox.processes().join('\n')}\n${this.sandbox.output}`,
    )
  }
}

/** The processes behind a control path. */
export class Service {
  readonly #application: Application
  readonly control: string

  constructor(application: Application, control: string) {
    this.#application = application
    this.control = control
  }

  /** Pid of that generation, when it serves. */
  async serves(generation: number): Promise<number> {
    return await until(
      `generation ${generation} serves`,
      async () => {
        const status = await operator.status(this.control).catch(() => null)
        return status?.generation === generation && status.role === 'serving' ? status.pid : null
      },
      PATIENCE_MS,
      () => this.#application.sandbox.output,
    )
  }

  /** As `fd-broker upgrade` does. */
  async upgrade(): Promise<number> {
    using client = await OperatorClient.connect(this.control)
    return (await client.upgrade({ timeoutMs: PATIENCE_MS })).generation
  }
}
