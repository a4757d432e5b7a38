import { isDeepStrictEqual } from 'node:util'
import type { Reloaded } from '../operator/service-commands.js'
import { nothingToRead } from './refusals.js'
import type { SupervisorSettings, VersionSettings } from './settings.js'

/** How versions that run already are told to end. */
export type Ending = Pick<VersionSettings, 'stopSignal' | 'stopTimeout'>

const AT_ONCE: ReadonlySet<string> = new Set(['stopSignal', 'stopTimeout'] satisfies (keyof Ending)[])

export interface SettingsSource {
  readonly settings: SupervisorSettings
  /** The settings for the next version. Rejects: it is not started. */
  readonly read: () => Promise<VersionSettings>
  /** Those of the supervisor, as they are now; null: neither can have changed. */
  readonly readLasting: (() => Promise<SupervisorSettings>) | null
}

/** Options that have changed, by when that counts. */
export type Changes = Pick<Reloaded, 'now' | 'next' | 'restart'>

/** What the next version is started by: what is read anew for each, and an operator's command in the place of its own. */
export class NextSettings {
  readonly #source: SettingsSource
  /** Versions whose command an operator has given. */
  readonly #given = new Set<number>()
  #argv: readonly string[] | null
  #served = false

  constructor(source: SettingsSource, argv: readonly string[] | null) {
    this.#source = source
    this.#argv = argv
  }

  /** What an operator has put in the place of the command, since it has served. */
  get argv(): readonly string[] | null {
    return this.#argv
  }

  /** A version has served. */
  get served(): boolean {
    return this.#served
  }

  /** Of this version; `given`: by an operator. */
  async of(id: number, given: readonly string[] | null): Promise<VersionSettings> {
    const own = await this.#source.read()
    if (given !== null) this.#given.add(id)
    return { ...own, command: given ?? this.#argv ?? own.command }
  }

  /** What it was started by has proved itself. */
  serves(id: number, { command }: VersionSettings): void {
    this.#served = true
    if (this.#given.delete(id)) this.#argv = command
  }

  /** An earlier version serves again, and what an operator had given then counts. */
  servesAgain(argv: readonly string[] | null): void {
    this.#argv = argv
  }

  /** What has changed since `now` was read. Rejects with ERR_FDB_COMMAND_UNKNOWN where nothing can have, and with what reading throws. */
  async reread(now: VersionSettings): Promise<{ readonly ending: Ending; readonly changes: Changes }> {
    const { read, readLasting, settings } = this.#source
    if (readLasting === null) throw nothingToRead()
    const own = await read()
    const changed = differing(named(now), named({ ...own, command: this.#argv ?? own.command }))
    const changes = {
      now: changed.filter(name => AT_ONCE.has(name)),
      next: changed.filter(name => !AT_ONCE.has(name)),
      restart: differing(settings, await readLasting()),
    }
    return { ending: own, changes }
  }
}

/** By the names of the options. */
function named({ asking, ...settings }: VersionSettings): object {
  const { interval, timeout, passes } = asking
  return { ...settings, healthInterval: interval, healthTimeout: timeout, healthPasses: passes }
}

function differing<T extends object>(before: T, after: T): string[] {
  const [was, is] = [plain(before), plain(after)]
  const names = new Set([...Object.keys(was), ...Object.keys(is)])
  return [...names].filter(name => !isDeepStrictEqual(was[name], is[name]))
}

/** As it is where a supervisor has gone on as another program: without what is undefined. */
function plain(value: object): Record<string, unknown> {
  return JSON.parse(JSON.stringify(value))
}
