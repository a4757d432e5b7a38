// @ts-check
import { fork } from 'node:child_process'
import { openSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { plainEnv } from '../../plain-env.mjs'

const APP = fileURLToPath(new URL('app.mjs', import.meta.url))

/** One process of the application. */
export class Process {
  #child
  /** @type {any[]} */
  #said = []
  /** @type {Set<() => void>} */
  #waiting = new Set()
  ended = false

  /** @param {object} options of the application @param {string} log */
  constructor(options, log) {
    const output = openSync(log, 'a')
    this.#child = fork(APP, [JSON.stringify(options)], {
      stdio: ['ignore', output, output, 'ipc'],
      env: plainEnv(),
    })
    this.#child.on('message', said => {
      this.#said.push(said)
      this.#look()
    })
    this.#child.on('error', () => {})
    this.#child.once('exit', () => {
      this.ended = true
      this.#look()
    })
  }

  get pid() {
    return this.#child.pid ?? 0
  }

  /** @param {NodeJS.Signals} name */
  signal(name) {
    if (!this.ended) this.#child.kill(name)
  }

  /** @param {string} order @param {object} [more] */
  order(order, more = {}) {
    if (this.#child.connected) this.#child.send({ order, ...more }, () => {})
  }

  /** Waits for a message of this name, or returns an earlier one; null if the process ends, or says nothing in time. @param {string} name @param {number} timeoutMs */
  says(name, timeoutMs) {
    return this.#until(() => this.#said.find(({ said }) => said === name) ?? null, timeoutMs)
  }

  /** @param {string} name */
  hasSaid(name) {
    return this.#said.some(({ said }) => said === name)
  }

  /** Whether it has ended by then. @param {number} timeoutMs */
  async end(timeoutMs) {
    await this.#until(() => null, timeoutMs)
    return this.ended
  }

  /**
   * The keys that begin with `prefix`, and all counts.
   * @param {string} prefix @param {number} timeoutMs
   * @returns {Promise<{ keys: string[], counts: Record<string, number> } | null>}
   */
  dump(prefix, timeoutMs) {
    this.#said = this.#said.filter(({ said }) => said !== 'dump')
    this.order('dump', { prefix })
    return this.says('dump', timeoutMs)
  }

  /** @param {() => any} found @param {number} timeoutMs */
  #until(found, timeoutMs) {
    return new Promise(resolve => {
      const finish = (/** @type {any} */ what) => {
        clearTimeout(timer)
        this.#waiting.delete(look)
        resolve(what)
      }
      const look = () => {
        const what = found()
        if (what !== null || this.ended) finish(what)
      }
      const timer = setTimeout(() => finish(null), timeoutMs)
      this.#waiting.add(look)
      look()
    })
  }

  #look() {
    for (const look of [...this.#waiting]) look()
  }
}
