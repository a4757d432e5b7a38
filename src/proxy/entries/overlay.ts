/**
 * Entries of a section that come from the configuration file, and entries that operators add at run time. An entry made at run time **overrides the
 * file until it is removed**: a deployment does not undo an operator's change.
 */
import { InOrder } from '../../base/in-order.js'
import type { Logger, Section } from '../../index.js'
import { type EntryState, getIfReadable, type Stamp } from './difference.js'

/**
 * `file`: from the configuration file, and replaced with it. `source`: from the store that all machines follow. `runtime`: added through the control
 * socket; neither a new file nor the store removes it. The later ones override the earlier ones.
 */
export const ORIGINS = ['file', 'source', 'runtime'] as const
export type Origin = (typeof ORIGINS)[number]
const PREFIXES = ORIGINS.map(origin => [origin, overlayKey(origin, '')] as const)

/** Returns an entry's key: `file:NAME` or `runtime:NAME` in the state, `source:NAME` in a view of it. */
export function overlayKey(origin: Origin, name: string): string {
  return `${origin}:${name}`
}

/** Returns null for a kind of key that this version does not know. */
export function originOf(key: string): Origin | null {
  for (const [origin, prefix] of PREFIXES) if (key.startsWith(prefix)) return origin
  return null
}

/** Returns null for a kind of key that this version does not know. */
export function parseOverlayKey(key: string): { origin: Origin; name: string } | null {
  const origin = originOf(key)
  return origin && { origin, name: key.slice(origin.length + 1) }
}

/** Returns the effect of adding an entry at run time; null if another entry, for which `isSame` is false, has the name and must not be replaced. */
export function additionOf<M>(
  state: Pick<EntryState<M>, 'get'>,
  name: string,
  isSame: (stored: M) => boolean,
  replace: boolean,
): 'added' | 'replaced' | 'unchanged' | null {
  const stored = getIfReadable(state, overlayKey('runtime', name))
  if (stored === undefined) return 'added'
  if (isSame(stored)) return 'unchanged'
  return replace ? 'replaced' : null
}

/** Returns why an entry may not be added, if {@link additionOf} returns null. */
export function existsText(name: string, what: string): string {
  return `${name} was made at run time before, with another ${what}; replace it, or remove it first`
}

/** Returns why an entry cannot be removed at run time; null if it can. `missing`: if it does not exist at all. */
export function whyNotRemoved<M>(
  state: Pick<EntryState<M>, 'has'>,
  name: string,
  missing: string,
): string | null {
  if (state.has(overlayKey('runtime', name))) return null
  if (state.has(overlayKey('source', name))) return `${name} comes from the source: change it in the store`
  return state.has(overlayKey('file', name))
    ? `${name} comes from the configuration file: change the file and reload it`
    : missing
}

export const MAX_LOGGED_NAMES = 20

/** The entries of a running proxy. Serializes all changes, so that a check stays valid until its change is written. */
export abstract class Overlay<M> {
  protected readonly section: Section<M>
  protected readonly logger: Logger
  readonly #generation: number
  readonly #order = new InOrder()

  constructor(section: Section<M>, generation: number, logger: Logger) {
    this.section = section
    this.#generation = generation
    this.logger = logger
  }

  /** Runs `work` after all earlier changes. If `gone` aborts before that, rejects with its reason. */
  protected change<T>(work: () => Promise<T>, gone?: AbortSignal): Promise<T> {
    return this.#order.run(work, gone)
  }

  protected get stamp(): Stamp {
    return { created: Date.now(), generation: this.#generation }
  }

  /** Logs a warning with the first names and their number as facts; nothing without names. */
  protected warnNamed(fact: string, names: readonly string[], text: string, more: object = {}): void {
    if (names.length === 0) return
    this.logger.warn({ [fact]: names.slice(0, MAX_LOGGED_NAMES), count: names.length, ...more }, text)
  }
}
