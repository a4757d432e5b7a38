import { connect } from 'node:net'
import { onTestFinished } from 'vitest'
import { pause } from './until.js'

/** Connects to a Unix socket again and again, to see whether anybody is ever refused, or finds no path. */
export class Knocking {
  /** The errors of failed connects. */
  readonly failures: string[] = []
  connected = 0
  readonly #path: string
  #stopped = false
  readonly #done: Promise<void>

  constructor(path: string) {
    this.#path = path
    this.#done = this.#run()
    onTestFinished(() => this.stop())
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#done
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      await this.#knock()
      await pause(1)
    }
  }

  #knock(): Promise<void> {
    return new Promise(resolve => {
      const socket = connect(this.#path)
      socket.on('connect', () => {
        this.connected++
        socket.destroy()
        resolve()
      })
      socket.on('error', error => {
        const { code = String(error) } = error as NodeJS.ErrnoException
        // The queue is full: no connect was refused.
        if (code !== 'EAGAIN') this.failures.push(code)
        resolve()
      })
    })
  }
}
