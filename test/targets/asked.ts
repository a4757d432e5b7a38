import { Agent, get } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../processes/until.js'

/** Asks a port again and again, over connections that are kept and over new ones, and notes who answered. */
export class Asked {
  /** How often each process has answered, by its pid. */
  readonly answers = new Map<number, number>()
  readonly failures: string[] = []
  readonly #port: number
  readonly #kept = new Agent({ keepAlive: true, maxSockets: 8 })
  readonly #loops: Promise<void>[]
  #going = true

  constructor(port: number) {
    this.#port = port
    this.#loops = Array.from({ length: 16 }, (_, index) => this.#ask(index % 2 === 0))
  }

  get total(): number {
    return [...this.answers.values()].reduce((sum, count) => sum + count, 0)
  }

  async answeredBy(pid: number, count: number): Promise<void> {
    await until(`${count} answers by ${pid}`, () => (this.answers.get(pid) ?? 0) >= count, 120_000)
  }

  async stop(): Promise<void> {
    this.#going = false
    await Promise.all(this.#loops)
    this.#kept.destroy()
  }

  async #ask(kept: boolean): Promise<void> {
    while (this.#going) {
      try {
        const pid = Number(await this.#answer(kept))
        this.answers.set(pid, (this.answers.get(pid) ?? 0) + 1)
      } catch (error) {
        this.failures.push(String(error))
      }
      await sleep(5)
    }
  }

  #answer(kept: boolean): Promise<string> {
    const agent = kept ? this.#kept : false
    return new Promise((resolve, reject) => {
      get({ host: '127.0.0.1', port: this.#port, agent, timeout: 60_000 }, response => {
        let text = ''
        response.setEncoding('utf8')
        response.on('data', part => {
          text += part
        })
        response.on('end', () => resolve(text))
        response.on('error', reject)
      })
        .on('timeout', () => reject(new Error('no answer for a minute')))
        .on('error', reject)
    })
  }
}
