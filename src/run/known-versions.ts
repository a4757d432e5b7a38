import { realpathSync } from 'node:fs'
import { resolve } from 'node:path'
import type { LinksOf, VersionLinks } from './release-links.js'
import type { VersionSettings } from './settings.js'

/** A version that may be started again: with the files that its command named when it was started. */
export interface KnownVersion {
  readonly id: number
  readonly settings: VersionSettings
  /** What an operator had put in the place of the command; null: nothing. */
  readonly argv: readonly string[] | null
  /** Where the words of its command led, and its folder. */
  readonly led: Readonly<Record<string, string>>
  /** Absent: no operator has given a link, or an earlier release has left it. */
  readonly links?: LinksOf | undefined
}

/** What the versions before were started by, kept as long as one of them may be started again. */
export class KnownVersions implements VersionLinks {
  readonly #known: Map<number, KnownVersion>
  readonly #links = new Map<number, LinksOf>()

  constructor(left: readonly KnownVersion[]) {
    this.#known = new Map(left.map(each => [each.id, each]))
    for (const { id, links } of left) if (links !== undefined) this.#links.set(id, links)
  }

  /** Notes what a version is started by. `of`: it is an earlier version again. */
  note(id: number, settings: VersionSettings, argv: KnownVersion['argv'], of: number | null): void {
    const earlier = of === null ? undefined : this.#known.get(of)
    this.#known.set(id, { ...(earlier ?? { settings, argv, led: ledOf(settings) }), id })
    const links = of === null ? undefined : this.#links.get(of)
    if (links !== undefined) this.#links.set(id, links)
  }

  linksOf(id: number): LinksOf | undefined {
    return this.#links.get(id)
  }

  noteLinks(id: number, links: LinksOf): void {
    this.#links.set(id, links)
  }

  argvOf(id: number): KnownVersion['argv'] {
    return this.#known.get(id)?.argv ?? null
  }

  /** By which an earlier version is started again: a link that leads elsewhere by now is replaced by the path that it led to. */
  settingsOf(id: number): VersionSettings | null {
    const known = this.#known.get(id)
    if (known === undefined) return null
    const { settings, led } = known
    const now = ledOf(settings)
    const then = (word: string) => (led[word] === now[word] ? word : (led[word] ?? word))
    return {
      ...settings,
      command: settings.command.map(then),
      ...(settings.cwd !== undefined && { cwd: then(settings.cwd) }),
    }
  }

  /** Forgets all others. */
  keepOnly(ids: readonly number[]): void {
    for (const map of [this.#known, this.#links])
      for (const id of [...map.keys()]) if (!ids.includes(id)) map.delete(id)
  }

  get left(): KnownVersion[] {
    return [...this.#known.values()].map(each => ({ ...each, links: this.#links.get(each.id) }))
  }
}

function ledOf({ command, cwd }: VersionSettings): Record<string, string> {
  const led: Record<string, string> = {}
  for (const word of new Set([...command, ...(cwd === undefined ? [] : [cwd])])) {
    try {
      led[word] = realpathSync(resolve(cwd ?? '', word))
    } catch {
      // The word names no file.
    }
  }
  return led
}
