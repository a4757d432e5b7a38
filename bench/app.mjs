// @ts-check
// The server under test, started and replaced by processes that share no ancestor but init: the example app, or any other
// command.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { freePort } from './free-port.mjs'
import { hasEnded, signal, startUnrelated, untilEnded } from './unrelated.mjs'

const EXAMPLE = fileURLToPath(new URL('../docs/examples/shop/server.mjs', import.meta.url))
const START_MS = 10_000
/** How long a naive stop waits for a drain before it kills. */
const STOP_MS = 3000
/** The window of an upgrade ends with the process before it, but not sooner after the first answer of the next, and not later. */
const WINDOW_MS = { least: 500, most: 5000 }

/** @typedef {(app: { folder: string, control: string, target: string }) => string[]} Command */

export class App {
  #log
  #command
  #probe
  #naive
  #env
  #fds
  /** Every started process, in order. @type {number[]} */
  pids = []

  /**
   * @param {{ folder: string, port: number, command: Command, probe: string, naive: boolean, env: Record<string, string>, fds: number | null }} options
   */
  constructor({ folder, port, command, probe, naive, env, fds }) {
    this.folder = folder
    this.control = join(folder, 'upgrade.sock')
    this.target = `http://127.0.0.1:${port}`
    this.#log = `${folder}.log`
    this.#command = command
    this.#probe = probe
    this.#naive = naive
    this.#env = env
    this.#fds = fds
  }

  /**
   * The example app, answering. Rejects with its output when it does not come to that.
   * @param {{ file?: string | undefined, routes: number, naive: boolean }} options naive: no upgrades, stop and start
   */
  static start({ file = EXAMPLE, routes, naive }) {
    return App.startCommand({
      command: ({ target, control }) => {
        const listen = target.replace('http:', 'tcp:')
        const upgrades = ['--control', naive ? 'none' : control]
        return [file, '--listen', listen, '--routes', String(routes), ...upgrades]
      },
      probe: '/whoami',
      naive,
    })
  }

  /**
   * The same for the command line of any app, without node. `probe` is what a running one answers with 200; `fds` are the
   * descriptors that each process may have.
   * @param {{ command: Command, probe: string, naive: boolean, env?: Record<string, string>, fds?: number | null }} options
   */
  static async startCommand({ command, probe, naive, env = {}, fds = null }) {
    const folder = mkdtempSync(join(tmpdir(), 'fd-broker-'))
    const app = new App({ folder, port: await freePort(), command, probe, naive, env, fds })
    await app.#launch()
    if (await until(() => app.answers(), START_MS)) return app
    const output = readFileSync(app.#log, 'utf8')
    await app.end()
    throw new Error(`the app did not answer within ${START_MS} ms; it said:\n${output}`)
  }

  /** The process that was started last. */
  get pid() {
    return this.pids.at(-1) ?? 0
  }

  /**
   * The next generation. Naive: after the end of the one before.
   * @param {(pid: number) => boolean} served tells whether the new process has answered a client
   * @returns {Promise<number | null>} ms from the start of the launch to that answer; null: it did not come
   */
  async replace(served) {
    const begun = performance.now()
    if (this.#naive) {
      const old = this.pid
      signal(old, 'SIGTERM')
      if (!(await untilEnded(old, STOP_MS))) signal(old, 'SIGKILL')
    }
    const pid = await this.#launch()
    return (await until(() => served(pid), START_MS)) ? performance.now() - begun : null
  }

  /** Behind {@link replace}: the end of the window, in which connections move. */
  async windowEnds() {
    const before = this.pids.at(-2) ?? 0
    await Promise.all([
      new Promise(resolve => setTimeout(resolve, WINDOW_MS.least)),
      untilEnded(before, WINDOW_MS.most),
    ])
  }

  async answers() {
    try {
      const response = await fetch(`${this.target}${this.#probe}`, {
        headers: { connection: 'close' },
        signal: AbortSignal.timeout(1000),
      })
      await response.text()
      return response.ok
    } catch {
      return false
    }
  }

  /** The output of all processes. */
  get output() {
    return readFileSync(this.#log, 'utf8')
  }

  /** Nothing of this run stays: every process that it started ends, by its pid. */
  async end() {
    const left = this.pids.filter(pid => !hasEnded(pid))
    for (const pid of left) signal(pid, 'SIGTERM')
    for (const pid of left) if (!(await untilEnded(pid, 5000))) signal(pid, 'SIGKILL')
    rmSync(this.folder, { recursive: true, force: true })
    rmSync(this.#log, { force: true })
  }

  async #launch() {
    const args = this.#command(this)
    const limited = this.#fds === null ? [] : [`--nofile=${this.#fds}:${this.#fds}`, '--', process.execPath]
    const command = this.#fds === null ? process.execPath : 'prlimit'
    const pid = await startUnrelated(this.#log, command, [...limited, ...args], this.#env)
    this.pids.push(pid)
    return pid
  }
}

/**
 * @param {() => boolean | Promise<boolean>} condition
 * @param {number} timeoutMs
 */
export async function until(condition, timeoutMs) {
  const give = performance.now() + timeoutMs
  while (performance.now() < give) {
    if (await condition()) return true
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  return false
}
