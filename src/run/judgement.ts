import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { GRACE_MS } from '../versions/process-members.js'
import type { Askers } from './askers.js'
import type { Failures } from './failures.js'
import type { KnownVersions } from './known-versions.js'
import { coming, type SupervisorEvent, type SupervisorState, serving } from './machine.js'
import type { NextSettings } from './next-settings.js'
import { probeFor } from './probe-for.js'
import { whyNot } from './refusals.js'
import { ReleaseLinks } from './release-links.js'
import type { MainEnd, RunningVersions } from './running-versions.js'

export interface JudgementParts {
  readonly askers: Askers
  readonly failures: Failures
  readonly known: KnownVersions
  readonly logger: Logger
  readonly settings: NextSettings
  readonly versions: () => RunningVersions
  readonly state: () => SupervisorState
  readonly dispatch: (event: SupervisorEvent) => void
}

/** Starts versions, and tells the machine what becomes of each: with the reason, where it fails. */
export class Judgement {
  readonly #parts: JudgementParts
  readonly #links: ReleaseLinks

  constructor(parts: JudgementParts) {
    this.#parts = parts
    this.#links = new ReleaseLinks(parts.known, parts.logger, serving(parts.state())?.id ?? null)
  }

  /** The links of releases follow each step of the machine, before its effects. */
  leadLinks(state: SupervisorState): void {
    this.#links.follow(state)
  }

  /** `of`: as this earlier version was started. False: it was not started. */
  async spawn(id: number, of: number | null): Promise<boolean> {
    const { askers, dispatch, failures, known, logger, settings: next, state } = this.#parts
    const asked = coming(state())?.askers ?? []
    const versions = this.#parts.versions()
    try {
      const given = askers.argvOf(asked)
      const release = of === null ? askers.releaseOf(asked) : null
      const now = serving(state())?.id ?? state().good[0] ?? null
      if (release !== null) this.#links.install(id, release, now)
      const before = of === null ? null : known.settingsOf(of)
      const settings = before ?? (await next.of(id, given))
      if (state().versions.some(version => version.id === id && version.doomed)) throw whyNot('cancelled')
      const probe = await probeFor(settings, versions.children)
      const version = versions.run(id, settings, probe)
      known.note(id, settings, given ?? next.argv, of)
      const { command } = settings
      const facts = { version: id, child: version.pid, command }
      if (of === null) logger.info(facts, 'a version was started')
      else logger.info({ ...facts, of }, 'the version before was started again')
      askers.tell(asked, 'started', version.pid)
      dispatch({ type: 'spawned', version: id })
      return true
    } catch (error) {
      failures.note(id, FdbError.from(error))
      dispatch({ type: 'spawn-failed', version: id })
      // In a step the machine takes it, and answers with the reason, when the step is over.
      await Promise.resolve()
      failures.forget(id)
      return false
    }
  }

  ready(id: number): void {
    const { askers, dispatch, state } = this.#parts
    const version = this.#parts.versions().get(id)
    if (version === undefined) return
    askers.tell(coming(state())?.askers ?? [], 'ready', version.pid)
    dispatch({ type: 'ready', version: id })
  }

  failed(id: number, why: string): void {
    const { dispatch, failures } = this.#parts
    const served = this.#phaseOf(id) === 'serving'
    const text = served ? `version ${id} serves and is not healthy: ${why}` : `version ${id}: ${why}`
    failures.note(id, new FdbError('ERR_FDB_UNHEALTHY', text, { phase: served ? 'serving' : 'starting' }))
    dispatch({ type: 'unhealthy', version: id })
  }

  recovered(id: number): void {
    this.#parts.logger.info({ version: id }, 'the version that serves is healthy again')
    this.#parts.dispatch({ type: 'healthy', version: id })
  }

  /** Its main process has ended, and left these processes behind. */
  mainEnded(id: number, code: number, left: readonly number[]): MainEnd {
    const { dispatch, failures, logger, state } = this.#parts
    const version = this.#parts.versions().get(id)!
    logger.info({ version: id, child: version.pid, code, left }, 'a version has ended')
    const was = state().versions.find(one => one.id === id)
    const phase = was?.phase
    const served = phase === 'serving'
    if (phase === 'starting' || phase === 'trial') {
      failures.ended(version, phase, code, left)
      if (left.length > 0) dispatch({ type: 'unhealthy', version: id })
    } else if (served && !was?.proved && state().good.length > 0) failures.fell(version, code, left)
    return { served, graceMs: phase === 'stopping' ? version.settings.stopTimeout : GRACE_MS }
  }

  #phaseOf(id: number): string | undefined {
    return this.#parts.state().versions.find(one => one.id === id)?.phase
  }
}
