import { expect } from 'vitest'
import { whoServes } from '../processes/client.js'
import { hasEnded } from '../processes/launch.js'
import { until } from '../processes/until.js'
import type { Sight } from './cell.js'
import { answerTo } from './given.js'
import { type Stage, stateOf } from './stage.js'

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
  /** The first client that was not answered. */
  #waiting: Promise<number> | null = null

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
    else expect(await this.#answer).toBe(answer)
    await this.#is(after)
    if (serves === 'waits') this.#startWaiting()
    else await this.#served(serves)
    // Again, because the order may have had a late effect.
    await this.#is(after)
  }

  /** The process has read the order before it answers this question. */
  async #waitsForAnswer(): Promise<void> {
    await this.#stage.phase()
    expect(this.#answered).toBe(false)
  }

  #startWaiting(): void {
    this.#waiting ??= whoServes(this.#stage.url)
    // The cell may say that no process serves later.
    this.#waiting.catch(() => {})
  }

  async #is(after: string): Promise<void> {
    const { pid } = this.#stage
    const look = async () => {
      if (after === 'ended') return hasEnded(pid)
      if (after === 'stopped') return stateOf(pid) === 'T'
      return (await this.#stage.phase()) === after
    }
    if (after === 'alive') expect(hasEnded(pid)).toBe(false)
    else await until(`process ${pid} is ${after}`, look, LATEST_MS, () => this.#stage.describe())
  }

  async #served(serves: Exclude<Sight['serves'], 'waits'>): Promise<void> {
    const { serving, url } = this.#stage
    if (this.#waiting !== null && serves !== 'none') expect(await this.#waiting).toBeGreaterThan(0)
    let last: unknown
    const look = async () => {
      last = await whoServes(url).catch(error => (error as { code: string }).code)
      if (serves === 'none') return last === 'ECONNREFUSED'
      if (serves === 'any') return typeof last === 'number'
      return typeof last === 'number' && serving.includes(last) === (serves === 'it')
    }
    await until(`served by ${serves}`, look, LATEST_MS, () => `last: ${last}\n${this.#stage.describe()}`)
  }
}
