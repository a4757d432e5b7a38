import { Agent } from 'node:http'
import { onTestFinished } from 'vitest'
import { ask } from './client.js'
import { pause } from './until.js'

const CLIENTS = 8

/** Clients that send one request after the other, on their connections, and count the answers. */
export class CountingClients {
  answers = 0
  gone = 0
  #ended = false
  /** The processes that have answered. */
  readonly pids = new Set<string>()
  readonly #running: Promise<unknown>

  /** Without an agent each request has a connection of its own. */
  constructor(url: string, agent: Agent | null = new Agent({ keepAlive: true, maxSockets: CLIENTS })) {
    onTestFinished(() => {
      this.#ended = true
      agent?.destroy()
    })
    this.#running = Promise.all(Array.from({ length: CLIENTS }, () => this.#run(url, agent)))
    this.#running.catch(() => {})
  }

  async stop(): Promise<void> {
    this.#ended = true
    await this.#running
  }

  async #run(url: string, agent: Agent | null): Promise<void> {
    for (let n = 0; !this.#ended; n++) {
      const isGone = n % 10 === 0
      const { status, headers } = await ask(isGone ? `${url}/gone` : `${url}/r/1`, agent ? { agent } : {})
        .answer
      this.pids.add(String(headers['x-pid']))
      if (status !== (isGone ? 410 : 200)) throw new Error(`a client got ${status}`)
      this.answers++
      if (isGone) this.gone++
      await pause(2)
    }
  }
}
