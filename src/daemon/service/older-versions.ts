import { LONGEST_MS } from '../../base/duration.js'
import type { Logger } from '../../base/logger.js'
import type { HolderState } from '../../handoff/holder-machine.js'
import type { Holder } from '../../holder/holder.js'
import type { Peer } from '../../holder/peer.js'
import { type Drainer, DrainLimit } from '../../member/drain/drain-orders.js'
import { type DrainReport, readDrainReport } from '../../operator/status-report.js'
import type { ForwardedWrites } from './forwarded-writes.js'

interface OlderVersionsDeps {
  readonly logger: Logger
  readonly writes: Pick<ForwardedWrites, 'reports'>
  holder(): Pick<Holder, 'peer' | 'peers'>
  machine(): Pick<HolderState, 'joiner' | 'owner'>
}

/** The versions of a service that do not serve any more: members, and processes that drained when an earlier daemon ended. */
export class OlderVersions {
  readonly #deps: OlderVersionsDeps
  readonly #limit: DrainLimit

  constructor(deps: OlderVersionsDeps) {
    this.#deps = deps
    this.#limit = new DrainLimit(deps.logger)
  }

  /** The members that neither serve nor join. */
  get #members(): Peer[] {
    const { joiner, owner } = this.#deps.machine()
    return this.#deps.holder().peers.filter(({ id }) => id !== owner && id !== joiner)
  }

  /** The last reports, for the status. */
  get reports(): unknown[] {
    const others = this.#members.flatMap(({ report }) => report ?? [])
    return [...others, ...this.#deps.writes.reports.map(({ link: _link, ...report }) => report)]
  }

  /** Lets the oldest versions end earlier if more drain than the member that serves allows. A member of an earlier release has no limit. */
  endOldest(): void {
    const { holder, machine, writes } = this.#deps
    const owner = holder().peer(machine().owner)
    const { most, timeoutMs } = ((owner?.report ?? {}) as Partial<DrainReport>).drainLimit ?? {}
    if (!isCount(most) || !isCount(timeoutMs) || most === 0) return
    const members = this.#members.flatMap(({ link, pid, report }): Drainer[] => {
      const read = readDrainReport(report, pid)
      return read === null ? [] : [{ ...read, link }]
    })
    this.#limit.apply([...members, ...writes.reports], { most, timeoutMs })
  }
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= LONGEST_MS
}
