import { onTestFinished } from 'vitest'
import { withServing } from '../../src/cli/state-source.js'
import type { AddReply, RemoveReply } from '../../src/proxy/routes/commands.js'
import { pause } from './until.js'

const EVERY_MS = 15

/**
 * Adds a route after the other through the control socket and removes every third again, until it is stopped; a change
 * that the process did not take as it was just replaced is made again. Remembers what was acknowledged.
 */
export class RouteChanges {
  /** Keys of the section. */
  readonly added = new Set<string>()
  readonly removed = new Set<string>()
  readonly #control: string
  readonly #upstream: string
  #stopped = false
  #held: Promise<void> | null = null
  readonly #done: Promise<void>
  #busy: Promise<void> = Promise.resolve()

  constructor(control: string, upstream: string) {
    this.#control = control
    this.#upstream = upstream
    this.#done = this.#run()
    this.#done.catch(() => {})
    onTestFinished(() => this.stop().catch(() => {}))
  }

  get acknowledged(): number {
    return this.added.size + this.removed.size
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#done
  }

  /** Calls `look` while no change is under way. */
  async between<T>(look: () => Promise<T>): Promise<T> {
    let goOn = () => {}
    this.#held = new Promise(resolve => (goOn = resolve))
    try {
      await this.#busy
      return await look()
    } finally {
      this.#held = null
      goOn()
    }
  }

  async #run(): Promise<void> {
    for (let n = 0; !this.#stopped; n++) {
      await this.#held
      this.#busy = this.#change(n)
      await this.#busy
      await pause(EVERY_MS)
    }
  }

  async #change(n: number): Promise<void> {
    const host = `n${n}.test`
    const { added } = await this.#ask<AddReply>('routes.add', { host, upstream: this.#upstream })
    if (added > 1) throw new Error(`${added} routes were added, not one`)
    this.added.add(`runtime:${host}/`)
    if (n % 3 !== 2) return
    const gone = `n${n - 1}.test`
    await this.#ask<RemoveReply>('routes.remove', { host: gone })
    this.removed.add(`runtime:${gone}/`)
  }

  async #ask<T>(command: string, route: object): Promise<T> {
    const options = { control: this.#control, service: '', timeout: 20_000 }
    const body = `{}\n${JSON.stringify(route)}\n`
    return await withServing(options, async ask => JSON.parse((await ask(command, body)).toString()) as T)
  }
}
