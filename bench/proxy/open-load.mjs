// @ts-check
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { compiled } from './compiled.mjs'

/**
 * @typedef {{ count: number, p99: number, each: number[] }} Sample p99 in milliseconds, of all and of each stretch
 * @typedef {{ inside: Sample, outside: Sample, perSecond: number, lost: number, why: string, lagMs: number }} OpenReport `why`: of the
 *   first that was lost; `lagMs`: the most that the load was late itself
 */

/** open-load.c: what a request of it costs is next to what its system calls do. */
export class OpenLoad {
  #child
  #ended
  /** @type {((part: string) => void)[]} */
  #parts = []
  /** @type {OpenReport | null} */
  #report = null
  /** Processes that have answered. @type {Set<number>} */
  pids = new Set()

  /** @param {{ folder: string, port: number, rate: number, connections: number, routes: number, fresh: number }} options one request of `fresh` has a connection of its own */
  constructor({ folder, port, rate, connections, routes, fresh }) {
    const args = [port, rate, connections, routes, fresh].map(String)
    this.#child = spawn(compiled('open-load.c', folder), args, { stdio: ['pipe', 'pipe', 'inherit'] })
    // The child's end is handled elsewhere.
    this.#child.stdin.on('error', () => {})
    const lines = createInterface(this.#child.stdout)
    this.#ended = once(lines, 'close')
    lines.on('line', line => {
      if (line.startsWith('{')) this.#report = JSON.parse(line)
      else if (line.startsWith('pid ')) this.pids.add(Number(line.slice('pid '.length)))
      else this.#parts.shift()?.(line)
    })
  }

  get pid() {
    return this.#child.pid ?? 0
  }

  /** Begins a part of the run; `null` is neither inside nor outside. @param {'inside' | 'outside' | null} part */
  async part(part) {
    const told = new Promise(resolve => this.#parts.push(resolve))
    this.#child.stdin.write(part?.[0] ?? 'n')
    await Promise.race([told, this.#ended])
  }

  /** Waits for what is outstanding, at most five seconds. @returns {Promise<OpenReport>} */
  async stop() {
    this.#child.stdin.end()
    await this.#ended
    if (this.#report === null) throw new Error('the load ended without a report')
    return this.#report
  }

  kill() {
    this.#child.kill('SIGKILL')
  }
}
