import { existsSync } from 'node:fs'
import { expect } from 'vitest'
import { whoServes } from '../processes/client.js'
import { hasEnded } from '../processes/launch.js'
import { until } from '../processes/until.js'
import type { Sight } from './cell.js'
import { answerTo } from './given.js'
import { type Stage, stateOf } from './stage.js'
import { WaitingClient } from './waiting-client.js'

/** Times an ordinary run by far: the last deadline of a play that has failed. */
const LATEST_MS = 90_000

/** Gives the order, and compares what happens with what the cell says. */
export async function play(
  stage: Stage,
  { first, later }: { readonly first: Sight; readonly later: Sight | null },
): Promise<void> {
  const played = new Play(stage, answerTo(stage.give()))
  await played.sees(first)
  if (later === null) return
  await stage.undo?.()
  stage.release?.()
  await played.sees(later)
}

class Play {
  readonly #stage: Stage
  readonly #answer: Promise<string>
  #answered = false
  /** The clients that were not answered. */
  readonly #waiting: WaitingClient[] = []

  constructor(stage: Stage, answer: Promise<string>) {
    this.#stage = stage
    this.#answer = answer
    const answered = () => {
      this.#answered = true
    }
    answer.then(answered, answered)
  }

  async sees({ answer, after, serves }: Sight): Promise<void> {
    if (answer === 'waits') await this.#waitsForAnswer()
    else expect(await this.#answerInTime()).toBe(answer)
    await this.#is(after)
    if (serves === 'waits')
      await until(
        'clients wait',
        () => this.#keepsWaiting(after),
        this.#latestMs,
        () => this.#stage.describe(),
      )
    else await this.#served(serves)
    // Again, because the order may have had a late effect.
    await this.#is(after)
    if (after === 'ended' && serves === 'none') this.#isRemoved()
    // A client that waited before may have been answered meanwhile.
    for (const { state } of this.#waiting) expect(state).not.toBe('closed')
  }

  async #answerInTime(): Promise<string> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<string>(resolve => {
      timer = setTimeout(resolve, this.#latestMs, `no answer within ${this.#latestMs} ms`)
    })
    return Promise.race([this.#answer, late]).finally(() => clearTimeout(timer))
  }

  get #latestMs(): number {
    return this.#stage.latestMs ?? LATEST_MS
  }

  /** The process has read the order before it answers this question. */
  async #waitsForAnswer(): Promise<void> {
    await this.#stage.phase()
    expect(this.#answered).toBe(false)
  }

  /** Nothing refuses a client. A process that ends may still answer some. */
  async #keepsWaiting(after: string): Promise<boolean> {
    const { url } = this.#stage
    const clients = [await WaitingClient.connect(url), await WaitingClient.connect(url)]
    this.#waiting.push(...clients)
    await this.#is(after)
    return clients.every(({ state }) => state === 'waits')
  }

  async #is(after: string): Promise<void> {
    const { pid } = this.#stage
    const look = async () => {
      if (after === 'ended') return hasEnded(pid)
      if (after === 'stopped') return stateOf(pid) === 'T'
      return (await this.#stage.phase()) === after
    }
    if (after === 'alive') expect(hasEnded(pid)).toBe(false)
    else await until(`process ${pid} is ${after}`, look, this.#latestMs, () => this.#stage.describe())
  }

  /** A process that a signal has ended before it has left its service would leave the socket, and with it what it had not written yet. */
  #isRemoved(): void {
    const { removes } = this.#stage
    if (removes !== null)
      expect(existsSync(removes), `${removes} is there\n${this.#stage.describe()}`).toBe(false)
  }

  async #served(serves: Exclude<Sight['serves'], 'waits'>): Promise<void> {
    const { serving, url } = this.#stage
    // The cell may say that no process serves later.
    if (serves !== 'none') for (const { answer } of this.#waiting) expect(await answer).toBeGreaterThan(0)
    for (const client of this.#waiting.splice(0)) client.close()
    let last: unknown
    const look = async () => {
      last = await whoServes(url).catch(error => (error as { code: string }).code)
      if (serves === 'none') return last === 'ECONNREFUSED'
      if (serves === 'any') return typeof last === 'number'
      return typeof last === 'number' && serving.includes(last) === (serves === 'it')
    }
    await until(`served by ${serves}`, look, this.#latestMs, () => `last: ${last}\n${this.#stage.describe()}`)
  }
}
