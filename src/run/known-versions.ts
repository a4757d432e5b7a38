import { resolve } from 'node:path'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { startedAs } from '../os/command-line.js'
import {
  type LinkTargets,
  linkTargets,
  type Release,
  realPathOf,
  refuseOwnPath,
  switchLink,
} from '../os/release-link.js'
import { candidate, type SupervisorState, serving } from '../versions/version-machine.js'
import type { VersionSettings } from './settings.js'

/** How to start a version again. The property names are part of the exec state, which other releases read. */
export interface KnownVersion {
  readonly id: number
  readonly settings: VersionSettings
  /** The command that an operator gave; null: the configured one. */
  readonly argv: readonly string[] | null
  /** Real paths at the version's first start, by absolute path: of the working folder, and of each file that a word of the command names. */
  readonly switched: Readonly<Record<string, string>>
  /** Absent if no operator named a release link. */
  readonly links?: ReleaseLinkTargets | undefined
}

/** Settings of the versions that may be started again. */
export class KnownVersions {
  readonly #known: Map<number, KnownVersion>
  readonly #links = new Map<number, ReleaseLinkTargets>()

  constructor(left: readonly KnownVersion[]) {
    this.#known = new Map(left.map(each => [each.id, each]))
    for (const { id, links } of left) if (links !== undefined) this.#links.set(id, links)
  }

  /** Records how version `id` was started. `of`: the earlier version that it repeats. */
  record(id: number, settings: VersionSettings, argv: KnownVersion['argv'], of: number | null): void {
    const earlier = of === null ? undefined : this.#known.get(of)
    this.#known.set(id, { ...(earlier ?? { settings, argv, switched: realPathsOf(settings) }), id })
    const links = of === null ? undefined : this.#links.get(of)
    if (links !== undefined) this.#links.set(id, links)
  }

  linksOf(id: number): ReleaseLinkTargets | undefined {
    return this.#links.get(id)
  }

  noteLinks(id: number, links: ReleaseLinkTargets): void {
    this.#links.set(id, links)
  }

  argvOf(id: number): KnownVersion['argv'] {
    return this.#known.get(id)?.argv ?? null
  }

  /**
   * Returns the settings to start a version again: in the folder that it had, if a link has led elsewhere since. A word of its command that names another
   * file from there is replaced by the path of the file that it named.
   */
  settingsOf(id: number): VersionSettings | null {
    const known = this.#known.get(id)
    if (known === undefined) return null
    const { settings, switched: former } = known
    const folder = folderOf(settings)
    const formerFolder = former[folder] ?? folder
    const cwd = formerFolder === realPathOf(folder) ? settings.cwd : formerFolder
    const [program = '', ...args] = settings.command
    const pathOf = (word: string, from: string, now = from) => {
      // Former releases recorded the word as it was given.
      const path = former[resolve(from, word)] ?? former[word]
      return path === undefined || realPathOf(resolve(now, word)) === path ? word : path
    }
    return {
      ...settings,
      command: [
        isLookedUp(program) ? program : pathOf(program, startedAs.cwd),
        ...args.map(word => pathOf(word, folder, formerFolder)),
      ],
      ...(cwd !== undefined && { cwd }),
    }
  }

  /**
   * Whether a rollback from version `from` to `to` can switch the link `at` back: the supervisor switched it for `from`, and no other
   * program has changed it.
   */
  canSwitchBack(at: string, to: number, from: number | undefined): boolean {
    const target = from === undefined ? undefined : this.#links.get(from)?.[at]
    return (
      this.#links.get(to)?.[at] !== undefined && target !== undefined && linkTargets(at)?.to === target.to
    )
  }

  keepOnly(ids: readonly number[]): void {
    for (const map of [this.#known, this.#links])
      for (const id of [...map.keys()]) if (!ids.includes(id)) map.delete(id)
  }

  get snapshot(): KnownVersion[] {
    return [...this.#known.values()].map(each => ({ ...each, links: this.#links.get(each.id) }))
  }
}

/** Returns the working folder of a version as it is named: with the links that lead to it. */
function folderOf({ cwd }: VersionSettings): string {
  return cwd ?? startedAs.cwd
}

/** Whether the program is searched in the folders of PATH. */
function isLookedUp(program: string): boolean {
  return !program.includes('/')
}

function realPathsOf(settings: VersionSettings): Record<string, string> {
  const folder = folderOf(settings)
  const [program = '', ...args] = settings.command
  const named = [
    folder,
    ...args.map(word => resolve(folder, word)),
    ...(isLookedUp(program) ? [] : [resolve(startedAs.cwd, program)]),
  ]
  const realPaths = [...new Set(named)].map(path => [path, realPathOf(path)] as const)
  return Object.fromEntries(realPaths.flatMap(([path, real]) => (real === null ? [] : [[path, real]])))
}

/** The targets of release links while one version serves, by path of the link. */
type ReleaseLinkTargets = Readonly<Record<string, LinkTargets>>

/**
 * Switches the release links that operators named with an upgrade: to the candidate's release and, if the candidate fails, back to the
 * serving version's. Leaves a link alone that another program has changed.
 */
export class ReleaseLinks {
  readonly #known: KnownVersions
  readonly #logger: Logger
  #links: ReleaseLinkTargets

  constructor(known: KnownVersions, logger: Logger, serving: number | null) {
    this.#known = known
    this.#logger = logger
    this.#links = (serving === null ? undefined : known.linksOf(serving)) ?? {}
  }

  /** Switches a link before version `id` starts. `now` is the serving version. Throws ERR_FDB_NO_BINARY, ERR_FDB_RELEASE_LINK. */
  install(id: number, { at, to }: Release, now: number | null): void {
    refuseOwnPath(at, to)
    const before = linkTargets(at)
    if (before === null) {
      const why = `${at} is no symbolic link: give --at the link that the program is started from`
      throw new FdbError('ERR_FDB_NO_BINARY', why, { details: { path: at } })
    }
    const links = { ...this.#links, [at]: before }
    if (now !== null) this.#known.noteLinks(now, links)
    // Recorded before the switch: if it fails after the first of its two links, `follow()` switches both back.
    const after = { ...links, [at]: { to, previous: before.to } }
    this.#known.noteLinks(id, after)
    this.#links = after
    switchLink(at, after[at]!)
    this.#logger.info(
      { version: id, at, to, before: before.to },
      'the release link was switched to the next version',
    )
  }

  /** Switches the links to the release that a restarted supervisor should start. */
  follow(state: SupervisorState): void {
    const links = this.#wanted(state)
    if (links === undefined || links === this.#links) return
    const before = this.#links
    this.#links = links
    for (const [at, wanted] of Object.entries(links)) {
      const set = before[at]
      if (set !== undefined && (set.to !== wanted.to || set.previous !== wanted.previous))
        this.#switch(at, wanted, set.to)
    }
  }

  #switch(at: string, wanted: LinkTargets, set: string): void {
    try {
      const now = linkTargets(at)
      const to = now?.to
      if (now !== null && to === wanted.to && now.previous === wanted.previous) return
      if (to !== set && to !== wanted.to) {
        this.#logger.warn(
          { at, to, release: wanted.to },
          'another program has changed the release link: it is left as it is',
        )
        return
      }
      switchLink(at, wanted)
      this.#logger.info({ at, to: wanted.to, before: to }, 'the release link was switched back')
    } catch (error) {
      this.#logger.error(
        { err: FdbError.from(error) },
        'the release link could not be switched back and is unchanged',
      )
    }
  }

  /** Returns the links' targets for a state; undefined: leave the links as they are. */
  #wanted(state: SupervisorState): ReleaseLinkTargets | undefined {
    const now = serving(state)
    const next = candidate(state)
    const last = state.versions.find(version => version.last)
    if (last !== undefined) return this.#known.linksOf(last.id)
    if (next !== undefined) {
      const links = this.#known.linksOf(next.of ?? next.id)
      if (links !== undefined) return links
    }
    return now === undefined ? undefined : (this.#known.linksOf(now.id) ?? {})
  }
}
