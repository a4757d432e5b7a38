import { rmSync, writeFileSync } from 'node:fs'
import { request } from 'node:http'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Sandbox } from '../e2e/cli-processes.js'
import { present } from './release.js'
import { freePort } from './scene.js'
import { until } from './until.js'
import { mainWhere, pidsOf, servedByAll } from './workers.js'

const APP = fileURLToPath(new URL('../fixtures/app-workers.mjs', import.meta.url))
export const WORKERS = 2
export const LONG_MS = 600_000
/** Longer than a worker is silent on a busy machine. */
const PATIENT_MS = 40_000

interface Held {
  readonly pid: number
  readonly end: () => void
}

/** A main process of two workers, of which a test can hold the next versions: they get ready only when the gate is open. */
export class GatedWorkers {
  readonly sandbox: Sandbox
  readonly url: string
  readonly pid: number
  readonly command: readonly string[]
  readonly #gate: string

  private constructor(facts: {
    sandbox: Sandbox
    url: string
    pid: number
    command: string[]
    gate: string
  }) {
    this.sandbox = facts.sandbox
    this.url = facts.url
    this.pid = facts.pid
    this.command = facts.command
    this.#gate = facts.gate
  }

  /** Starts it, and waits until both workers serve. `silence`: a worker in its probation may be silent for this time. */
  static async start({ probation = 0, silence = PATIENT_MS } = {}): Promise<GatedWorkers> {
    const sandbox = Sandbox.open()
    const port = await freePort()
    const gate = join(sandbox.folder, 'gate')
    const options = ['--service', 'shop', '--control', sandbox.control, '--count', `${WORKERS}`]
    const limits = ['--timeout', '10m', '--stop-timeout', '10m']
    const orders = JSON.stringify({ gate, drain: LONG_MS, upgrade: { probation, silence } })
    const worker = [process.execPath, APP, `tcp://127.0.0.1:${port}`, orders]
    const command = [...present.cli, 'workers', 'start', ...options, ...limits, '--', ...worker]
    const pid = await sandbox.launch(command)
    const main = new GatedWorkers({ sandbox, url: `http://127.0.0.1:${port}`, pid, command, gate })
    await main.serving()
    return main
  }

  get control(): string {
    return this.sandbox.control
  }

  /** Waits until both workers serve. Returns their pids. */
  async serving(): Promise<[number, number]> {
    return pidsOf(await mainWhere(this.control, 'both workers serve', servedByAll(WORKERS))) as [
      number,
      number,
    ]
  }

  /** From now on a new worker does not get ready. */
  shut(): void {
    writeFileSync(this.#gate, '')
  }

  /** Waits until a new worker waits at the gate. */
  async waits(): Promise<void> {
    await until(
      'the next worker waits',
      () => this.sandbox.output.includes('waits'),
      undefined,
      () => this.sandbox.output,
    )
  }

  /** Undoes {@link shut}. */
  open(): void {
    rmSync(this.#gate)
  }

  /**
   * A request that is never answered in full. Resolves with the worker that has it, which is `by` if that is given, and a function that ends it. At an
   * order to end the first worker stays while another one has requests, which change the state through it.
   */
  async hold(by?: number): Promise<Held> {
    for (;;) {
      const held = await this.#hold()
      if (by === undefined || held.pid === by) return held
      held.end()
    }
  }

  async #hold(): Promise<Held> {
    const held = request(`${this.url}/held`, { agent: false })
    const pid = await new Promise<number>((resolve, reject) => {
      held.on('error', reject)
      held.on('response', response => {
        response.on('error', () => {}).resume()
        resolve(Number(response.headers['x-pid']))
      })
      held.end()
    })
    held.on('error', () => {})
    return { pid, end: () => held.destroy() }
  }
}
