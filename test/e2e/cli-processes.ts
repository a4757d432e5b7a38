import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { onTestFinished } from 'vitest'
import type { StatusReport } from '../../src/operator/status-report.js'
import { launchUnrelated, signalPid } from '../processes/launch.js'
import { endMarked, markedProcesses } from '../processes/marked.js'
import { printedStatus } from '../processes/operator.js'
import { procText } from '../processes/proc-file.js'
import { until } from '../processes/until.js'

export const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
export const SHOP = fileURLToPath(new URL('../../docs/examples/shop/server.mjs', import.meta.url))

export interface Ran {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/**
 * A folder, the example shop and `fd-broker` command lines of one test. Whatever carries its mark in its environment,
 * successors started by a server too, has ended when the test has.
 */
export class Sandbox {
  readonly folder = mkdtempSync(join(tmpdir(), 'fdb-cli-'))
  readonly control = join(this.folder, 'upgrade.sock')
  readonly log = join(this.folder, 'shop.log')
  /** Has the control sockets of services without a configured one. */
  readonly runtime = join(this.folder, 'runtime-directory')
  readonly #mark = randomUUID()

  constructor() {
    mkdirSync(this.runtime, { mode: 0o700 })
  }

  static open(): Sandbox {
    const sandbox = new Sandbox()
    onTestFinished(() => sandbox.close())
    return sandbox
  }

  get env(): NodeJS.ProcessEnv {
    const { runtime: RUNTIME_DIRECTORY } = this
    return { ...process.env, NODE_OPTIONS: '', FDB_TEST_SANDBOX: this.#mark, RUNTIME_DIRECTORY }
  }

  /** The environment of a process that ends with the test. */
  get marked(): { readonly FDB_TEST_SANDBOX: string } {
    return { FDB_TEST_SANDBOX: this.#mark }
  }

  file(name: string): string {
    return join(this.folder, name)
  }

  /** Starts a command without a parent of ours; its output goes to {@link log}. */
  launch(command: readonly string[]): Promise<number> {
    return launchUnrelated(command, { log: this.log, env: this.env })
  }

  /** The example shop, serving. */
  async shop(routes = 50): Promise<number> {
    const args = ['--control', this.control, '--listen', 'tcp://127.0.0.1:0', '--routes', String(routes)]
    const pid = await this.launch([process.execPath, SHOP, ...args])
    await this.statusWhere('the shop serves', ({ pid: now, role }) => now === pid && role === 'serving')
    return pid
  }

  /** `fd-broker …` until it ends. */
  run(...args: string[]): Promise<Ran> {
    return this.runCommand([process.execPath, CLI, ...args])
  }

  /** {@link run}, with notes in `stderr`. */
  runWithNotes(...args: string[]): Promise<Ran> {
    return this.runCommand([process.execPath, CLI, ...args], { notes: true })
  }

  /** Any command until it ends. `stderr` lacks the notes on what a command waits for, which depend on the machine's speed, unless `notes` asks for them. */
  runCommand([command = '', ...args]: readonly string[], { notes = false } = {}): Promise<Ran> {
    return new Promise((resolve, reject) => {
      const child = spawn(command, args, { env: this.env, timeout: 120_000 })
      let stdout = ''
      let stderr = ''
      child.stdout.setEncoding('utf8').on('data', text => (stdout += text))
      child.stderr.setEncoding('utf8').on('data', text => (stderr += text))
      child.once('error', reject)
      child.once('close', code => resolve({ code, stdout, stderr: notes ? stderr : withoutNotes(stderr) }))
    })
  }

  /** `fd-broker serve` in the background. */
  serve(...args: string[]): Promise<number> {
    return this.launch([process.execPath, CLI, 'serve', ...args])
  }

  status(): Promise<StatusReport> {
    return printedStatus(this.control)
  }

  async statusWhere(what: string, holds: (status: StatusReport) => boolean): Promise<StatusReport> {
    let last: unknown
    return await until(
      what,
      async () => {
        try {
          const status = await this.status()
          last = status
          return holds(status) ? status : null
        } catch (error) {
          last = error
          return null
        }
      },
      15_000,
      () => `${last instanceof Error ? last.message : JSON.stringify(last)}\n${this.output}`,
    )
  }

  get output(): string {
    return existsSync(this.log) ? readFileSync(this.log, 'utf8') : ''
  }

  /** Command lines of the test's processes that run now. */
  processes(): string[] {
    return markedProcesses(this.#mark).map(pid => procText(pid, 'cmdline').replaceAll('\0', ' '))
  }

  /** To each of the test's processes that run now. */
  signal(signal: NodeJS.Signals): void {
    for (const pid of markedProcesses(this.#mark)) signalPid(pid, signal)
  }

  async close(): Promise<void> {
    await endMarked(this.#mark)
    rmSync(this.folder, { recursive: true, force: true })
  }
}

/** On a busy machine a command waits long enough to write some. */
function withoutNotes(stderr: string): string {
  return stderr.replace(
    /^(?:.* does not serve yet|the server has not started the next version yet).*\n/gm,
    '',
  )
}

/** `http://…` of a shop's first listener. */
export function urlOf(status: StatusReport): string {
  return status.listeners[0]!.address.replace('tcp:', 'http:')
}

/** The process that answers a client now. */
export async function whoami(url: string): Promise<{ generation: number; pid: number }> {
  const response = await fetch(`${url}/whoami`, { headers: { connection: 'close' } })
  const [generation, pid] = (await response.text()).split(',').map(Number)
  return { generation: generation!, pid: pid! }
}
