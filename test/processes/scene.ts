import { randomInt, randomUUID } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { type ProcessReply, ROLLBACK, readProcessReply } from '../../src/operator/service-commands.js'
import type { StatusReport } from '../../src/operator/status-report.js'
import { App, type AppConfig } from './app.js'
import { launchUnrelated } from './launch.js'
import { endMarked } from './marked.js'
import * as operator from './operator.js'
import { until } from './until.js'

const APP = fileURLToPath(new URL('../fixtures/app.mjs', import.meta.url))

/** How a process is started. */
export interface StartOptions {
  /** Before the command line: `unshare …`. */
  wrap?: readonly string[]
  env?: NodeJS.ProcessEnv
  /** In place of test/fixtures/app.mjs: a program that says in lines of JSON what becomes of it, and its arguments. */
  command?: readonly string[]
}

/**
 * A folder and the processes of one test. Everything that carries its mark in its environment, also what the
 * processes started themselves, has ended when the test has.
 */
export class Scene {
  readonly folder: string
  /** The path of the control socket, alone in its folder. */
  readonly control: string
  readonly apps: App[] = []
  /** Laid under every app's configuration. */
  readonly defaults: AppConfig
  readonly #mark = randomUUID()
  #count = 0

  private constructor(defaults: AppConfig, base: string) {
    this.folder = mkdtempSync(join(base, 'fdb-e2e-'))
    mkdirSync(join(this.folder, 'run'), { mode: 0o700 })
    this.control = join(this.folder, 'run', 'upgrade.sock')
    this.defaults = defaults
  }

  /** The environment of a process that ends with the test, with all that it starts. */
  get marked(): { readonly FDB_TEST_SCENE: string } {
    return { FDB_TEST_SCENE: this.#mark }
  }

  static open(defaults: AppConfig = {}, base: string = tmpdir()): Scene {
    const scene = new Scene(defaults, base)
    onTestFinished(() => scene.close())
    return scene
  }

  /** Starts test/fixtures/app.mjs as an unrelated process. Resolves when it has been launched, no more. */
  async start(config: AppConfig = {}, options: StartOptions = {}): Promise<App> {
    const name = `app${++this.#count}`
    const whole: AppConfig = { control: this.control, ...this.defaults, ...config }
    const log = join(this.folder, `${name}.log`)
    const commands = join(this.folder, `${name}.sock`)
    const env = {
      ...process.env,
      NODE_OPTIONS: '',
      ...this.marked,
      FDB_APP: JSON.stringify({ ...whole, name, commands, folder: this.folder }),
      ...options.env,
    }
    const command = options.command ?? [APP]
    const pid = await launchUnrelated([...(options.wrap ?? []), process.execPath, ...command], { log, env })
    const app = new App({ name, pid, config: whole, log, commands })
    this.apps.push(app)
    return app
  }

  /** As {@link start}, and waits until it serves. */
  async serve(config?: AppConfig, options?: StartOptions): Promise<App> {
    return await (await this.start(config, options)).serving()
  }

  /** Orders the previous version to serve again. `service`: the one of a daemon. */
  async rollback(service = ''): Promise<ProcessReply> {
    using client = await OperatorClient.connect(this.control)
    return readProcessReply(await client.command(ROLLBACK, '', { service }))
  }

  status(): Promise<StatusReport> {
    return operator.status(this.control)
  }

  /** Waits for a status of the serving process. */
  async statusWhere(
    what: string,
    holds: (status: StatusReport) => boolean,
    ms?: number,
  ): Promise<StatusReport> {
    let last: StatusReport | undefined
    return await until(
      what,
      async () => {
        last = await this.status()
        return holds(last) ? last : null
      },
      ms,
      () => last,
    )
  }

  /** The path of this name in the scene's folder. */
  file(name: string): string {
    return join(this.folder, name)
  }

  write(name: string, text: string): string {
    writeFileSync(this.file(name), text)
    return this.file(name)
  }

  /** Kills what is left, by pid, and removes the folder. */
  async close(): Promise<void> {
    await endMarked(this.#mark)
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** Below those that the kernel gives to who connects. */
const [FIRST_PORT, PORTS] = [12_000, 20_000]

/**
 * Gives a TCP port that was free a moment ago, each port once in a run of the suite. Not one of the kernel's choice: behind a block of ports
 * that are in use, as after a load, it gives the same one again and again, to tests that run at the same time.
 */
export async function freePort(host = '127.0.0.1'): Promise<number> {
  for (;;) {
    const port = randomInt(FIRST_PORT, FIRST_PORT + PORTS)
    if (!claim(port)) continue
    if (await isFree(port, host)) return port
  }
}

/** Where there is no run of the suite, as in test/package. */
const given = new Set<number>()

/** Returns false if a test of this run has the port, or has had it: two that ask at the same time find it free, and only one can bind it. */
function claim(port: number): boolean {
  const shared = process.env.FDB_TEST_SHARED
  if (shared === undefined) {
    const isNew = !given.has(port)
    given.add(port)
    return isNew
  }
  try {
    writeFileSync(join(shared, `port-${port}`), '', { flag: 'wx' })
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false
    throw error
  }
}

function isFree(port: number, host: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = createServer()
    probe.on('error', (error: NodeJS.ErrnoException) =>
      error.code === 'EADDRINUSE' ? resolve(false) : reject(error),
    )
    probe.listen(port, host, () => probe.close(() => resolve(true)))
  })
}
