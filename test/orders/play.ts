import { readFileSync } from 'node:fs'
import { expect } from 'vitest'
import type { App } from '../processes/app.js'
import { whoServes } from '../processes/client.js'
import { until } from '../processes/until.js'
import type { Sight } from './cell.js'
import { answerTo, ORDERED_MS, type OrderName, orderOf } from './given.js'
import { type MemberPhaseName, phaseOf } from './phases.js'
import { FOR_EVER_MS, type MemberHosting, SLOW, World } from './world.js'

/** Times an ordinary run by far: the last deadline of a play that has failed. */
const LATEST_MS = 90_000

/** Opens the scene of a play: its processes keep their state in a file, and end within a short time at TERM. */
export async function openScene(hosting: MemberHosting, phase: MemberPhaseName): Promise<World> {
  const limits = { timeout: FOR_EVER_MS, upgrade: { ...SLOW, ...phaseOf(phase).upgrade } }
  const drain = { timeout: FOR_EVER_MS, tlsTimeout: FOR_EVER_MS }
  return await World.open(hosting, { ...limits, drain, endWithin: ORDERED_MS, reloads: true }, true)
}

/** Brings a process into the phase, gives it the order, and compares what happens with what the cell says. */
export async function play(
  hosting: MemberHosting,
  phase: MemberPhaseName,
  order: OrderName,
  { first, later }: { readonly first: Sight; readonly later: Sight | null },
): Promise<void> {
  const world = await openScene(hosting, phase)
  const { app, release } = await phaseOf(phase).reach(world, false)
  const { give, undo } = orderOf(order)
  const played = new Play(world, app, answerTo(give(app, world)))
  await played.sees(first)
  if (later === null) return
  await undo?.(app)
  release?.()
  await played.sees(later)
}

class Play {
  readonly #world: World
  readonly #app: App
  readonly #answer: Promise<string>
  #answered = false
  /** The first client that was not answered. */
  #waiting: Promise<number> | null = null

  constructor(world: World, app: App, answer: Promise<string>) {
    this.#world = world
    this.#app = app
    this.#answer = answer
    answer.then(
      () => (this.#answered = true),
      () => (this.#answered = true),
    )
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

  async #waitsForAnswer(): Promise<void> {
    await this.#app.order('phase')
    expect(this.#answered).toBe(false)
  }

  #startWaiting(): void {
    this.#waiting ??= whoServes(this.#world.url)
    // The cell may say that no process serves later.
    this.#waiting.catch(() => {})
  }

  async #is(after: string): Promise<void> {
    const app = this.#app
    if (after === 'ended') await app.end(LATEST_MS)
    else if (after === 'alive') expect(app.ended).toBe(false)
    else if (after === 'stopped') await until('it is stopped', () => stateOf(app.pid) === 'T', LATEST_MS)
    else
      await until(
        `${app.name} is ${after}`,
        async () => (await app.order('phase')) === after,
        LATEST_MS,
        () => app.output,
      )
  }

  async #served(serves: Exclude<Sight['serves'], 'waits'>): Promise<void> {
    const { url } = this.#world
    if (this.#waiting !== null && serves !== 'none') expect(await this.#waiting).toBeGreaterThan(0)
    let last: unknown
    const look = async () => {
      last = await whoServes(url).catch(error => (error as { code: string }).code)
      if (serves === 'none') return last === 'ECONNREFUSED'
      if (serves === 'any') return typeof last === 'number'
      return typeof last === 'number' && (last === this.#app.pid) === (serves === 'it')
    }
    await until(`served by ${serves}`, look, LATEST_MS, () => `last: ${last}\n${this.#stories}`)
  }

  get #stories(): string {
    return this.#world.scene.apps.map(({ name, output }) => `--- ${name}\n${output}`).join('\n')
  }
}

/** The state of a process in /proc: `T` if a signal has stopped it. */
function stateOf(pid: number): string {
  return /^.*\) (.)/s.exec(readFileSync(`/proc/${pid}/stat`, 'latin1'))?.[1] ?? ''
}
