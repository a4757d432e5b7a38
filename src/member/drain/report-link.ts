import { activeResources } from '../../node/active-resources.js'
import type { DrainReport, ForcedClose } from '../../operator/status-report.js'
import type { BundleItem } from '../../wire/bundle.js'
import type { WireEnvelope } from '../../wire/link.js'
import type { Hosting } from '../lifecycle/hosting.js'
import { RETIRED_MS } from '../lifecycle/shutdown.js'
import type { DrainCounts } from '../listeners/forced-closes.js'
import type { Settings } from '../options/options.js'
import type { FencedWrites } from '../state/fenced-writes.js'
import { ServingLink, type ServingLinkDeps } from '../state/serving-link.js'
import { LAST } from './older-generations.js'

/** The `top` that a retired process reports: above all epochs, so that it gets no more segments. */
const NO_SEGMENTS = 2 ** 32 - 1

interface ReportLinkDeps {
  readonly settings: Pick<Settings, 'control' | 'logger' | 'service' | 'times' | 'versions'>
  readonly hosting: () => Pick<Hosting, 'acceptsReports' | 'acceptsWrites'>
  readonly facts: () => { readonly generation: number; readonly top: number }
  readonly report: () => DrainReport
  readonly writes: () => Pick<FencedWrites, 'forwarder' | 'takeNewer'>
  readonly events: {
    message(envelope: WireEnvelope): void
    /** Returns whether the items are a move channel, and owns them then. */
    channel(items: BundleItem[]): boolean
    connected(): void
  }
}

/** Reports on the drain of this process, or that it stands by, to the process that serves. Owns the link for that. */
export class ReportLink {
  readonly #deps: ReportLinkDeps
  #link: ServingLink | null = null
  /** The member has retired, but the process still lives. */
  #lingers = false
  #isLast = false
  #closed: readonly ForcedClose[] = []

  constructor(deps: ReportLinkDeps) {
    this.#deps = deps
  }

  /** Starts to report. Returns whether the process that serves accepts forwarded changes. */
  open(): boolean {
    const { control } = this.#deps.settings
    const hosting = this.#deps.hosting()
    if (control === null || !hosting.acceptsReports) return this.#link !== null
    this.#link ??= new ServingLink(this.#linkTo(control))
    this.#link.start()
    return hosting.acceptsWrites
  }

  #linkTo(control: string): ServingLinkDeps {
    const { events, facts, settings, writes } = this.#deps
    return {
      settings: { ...settings, control },
      hello: () => ({ intent: 'draining', ...facts(), ...(this.#lingers && { top: NO_SEGMENTS }) }),
      everyMs: () => (this.#lingers ? RETIRED_MS : settings.times.heartbeat),
      report: () => this.report,
      writes: writes().forwarder,
      events: {
        adopt: items => events.channel(items) || writes().takeNewer(items),
        connected: () => events.connected(),
        handle: envelope => events.message(envelope),
      },
    }
  }

  reconnect(): void {
    this.#link?.reconnect()
  }

  askForMove(): void {
    this.#link?.askForMove()
  }

  get report(): DrainReport {
    const report = this.#deps.report()
    return {
      ...report,
      phase: this.#lingers ? 'retired' : this.#isLast ? LAST : report.phase,
      ...(this.#lingers && { keptBy: activeResources() }),
      closed: this.#closed,
    }
  }

  /** The connections that have left this process and come to it, and those that it cut. */
  get counts(): Record<'moved' | 'arrived' | 'lost' | 'cut', number> {
    const { moved = 0, arrived = 0, lost = 0 } = this.#deps.report().moves ?? {}
    const cut = this.#closed.reduce((sum, { count }) => sum + count, 0)
    return { moved, arrived, lost, cut }
  }

  /** Reports the connections that were closed at the end of the drain. */
  noteClosed({ closed = [] }: DrainCounts): void {
    this.#closed = [...this.#closed, ...closed]
    this.#link?.reportNow()
  }

  /** Reports the resources that keep this retired process alive, for the status of the process that serves. */
  linger(): void {
    this.#lingers = true
    this.#link?.start()
  }

  /** Reports that this process only waits for the end of the process that served after it. */
  waitLast(): void {
    this.#isLast = true
    this.#link?.reportNow()
  }

  /** Sends a last report and ends the connection: this process serves again, or ends. */
  stop(): void {
    this.#link?.stop()
  }
}
