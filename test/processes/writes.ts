import { request } from 'node:http'
import { onTestFinished } from 'vitest'
import { pause } from './until.js'

/**
 * Puts one key after the other to /r/<key>, each on a connection of its own, until it is stopped. Remembers what was
 * acknowledged; a change that was answered otherwise is put again under the same request id.
 */
export class Writes {
  readonly acknowledged = new Map<string, string>()
  /** Connections that were refused. */
  refused = 0
  /** How the last one that was not acknowledged ended. */
  lastFailure = ''
  readonly #target: string
  readonly #prefix: string
  #stopped = false
  readonly #done: Promise<void>

  constructor(target: string, prefix = 'w') {
    this.#target = target
    this.#prefix = prefix
    this.#done = this.#run()
    onTestFinished(() => this.stop())
  }

  /** Resolves when the last one has its answer, or has failed. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#done
  }

  async #run(): Promise<void> {
    for (let i = 0; !this.#stopped; i++) {
      const [key, value] = [`${this.#prefix}-${i}`, `value ${i}`]
      while (!this.#stopped && !(await this.#put(key, value))) await pause(10)
      await pause(3)
    }
  }

  #put(key: string, value: string): Promise<boolean> {
    return new Promise(resolve => {
      const headers = { 'x-request-id': key, connection: 'close' }
      const asked = request(
        `${this.#target}/r/${key}`,
        { method: 'PUT', headers, agent: false, timeout: 8_000 },
        response => {
          const ok = response.statusCode === 200
          if (ok) this.acknowledged.set(key, value)
          if (!ok) this.lastFailure = `${key}: status ${response.statusCode} of ${response.headers['x-pid']}`
          response.resume().on('close', () => resolve(ok))
        },
      )
      asked.on('timeout', () => asked.destroy(new Error('no answer')))
      asked.on('error', error => {
        if ((error as NodeJS.ErrnoException).code === 'ECONNREFUSED') this.refused++
        this.lastFailure = `${key}: ${error.message}`
        resolve(false)
      })
      asked.end(value)
    })
  }
}
