import { randomUUID } from 'node:crypto'
import { FdbError } from '../errors.js'
import { type Caller, turnAway } from '../holder/admission.js'
import type { HeldAlone } from '../holder/daemon/held-alone.js'
import { type RememberedService, RightsHolders } from '../holder/daemon/rights-holders.js'
import { Service } from '../holder/daemon/service.js'
import type { HandoffTimes } from '../holder/times.js'
import type { Logger } from '../logger.js'
import type { BundleItem } from '../protocol/bundle.js'
import type { Deposits } from './deposits.js'

/** More services than this are a fault of somebody, not a need. */
const MAX_SERVICES = 1_000

export interface ServicesParts {
  readonly control: string
  readonly times: HandoffTimes
  readonly logger: Logger
  readonly deposits: Deposits
  /** Something that `status` shows has changed. */
  changed(): void
}

/** The services of a daemon, as long as it serves. */
export class Services {
  readonly incarnation = randomUUID()
  readonly #parts: ServicesParts
  readonly #services = new Map<string, Service>()
  readonly #rightsHolders: RightsHolders
  /** Another daemon may have them by now: nothing is written down. */
  #paused = true
  #sweep: NodeJS.Immediate | undefined

  constructor(parts: ServicesParts) {
    this.#parts = parts
    this.#rightsHolders = new RightsHolders(parts.control)
  }

  /** They are this daemon's: those of which members of an earlier one live, and those that it has handed over. */
  begin(): void {
    const items = this.#parts.deposits.take()
    for (const remembered of this.#rightsHolders.read()) {
      const handedOver = items.get(remembered.service) ?? []
      items.delete(remembered.service)
      if (remembered.members.length > 0 || handedOver.length > 0) this.#add(remembered, handedOver)
    }
    // The list was removed, or cannot be read.
    for (const [service, handedOver] of items)
      this.#add({ service, generation: 1, startedAt: Date.now(), members: [] }, handedOver)
    this.#paused = false
    this.#noteChange()
  }

  get all(): Service[] {
    return [...this.#services.values()]
  }

  get size(): number {
    return this.#services.size
  }

  get(name: string): Service | undefined {
    return this.#services.get(name)
  }

  /** What no living member has too. */
  get heldAlone(): HeldAlone[] {
    return this.all.flatMap(service => service.heldAlone ?? [])
  }

  /** The one that is named; empty: the only one. Throws ERR_FDB_SERVICE. */
  only(name: string): Service {
    const service = name === '' && this.size === 1 ? this.all[0] : this.get(name)
    if (service !== undefined) return service
    const names = [...this.#services.keys()].join(', ') || 'none'
    throw new FdbError(
      'ERR_FDB_SERVICE',
      `which service? ${name === '' ? 'Give one' : `There is no "${name}"`} (this daemon holds: ${names})`,
    )
  }

  /** Of the caller, who joins it or comes back to it. Null: there is none, and it was told. */
  of(caller: Caller): Service | null {
    const name = caller.hello.service ?? ''
    const known = this.get(name)
    if (known !== undefined) return known
    if (name === '' || name.length > 128 || this.size >= MAX_SERVICES) {
      const why =
        this.size >= MAX_SERVICES
          ? `this daemon holds ${MAX_SERVICES} services already`
          : 'a service needs a name of 1 to 128 characters'
      turnAway(caller, new FdbError('ERR_FDB_SERVICE', why))
      return null
    }
    // A member of a service that this daemon does not know comes back: it is to be waited for like the others.
    const members = caller.intent === 'back' ? [caller.identity] : []
    return this.#add({ service: name, generation: 0, startedAt: Date.now(), members }, [])
  }

  /** No handoff is under way. */
  get settled(): boolean {
    return this.all.every(service => service.settled)
  }

  /** What they have changes no more, until {@link resume}, but for what dies. */
  pause(): void {
    this.#paused = true
    for (const service of this.all) service.pause()
  }

  resume(): void {
    this.#paused = false
    for (const service of this.all) service.resume()
    this.#noteChange()
  }

  /** Writes the state that this daemon alone has to the files of the members. */
  async keepState(timeoutMs: number): Promise<void> {
    await Promise.all(this.all.map(service => service.keepState(timeoutMs)))
  }

  /** Members serve on. `kept`: somebody else has what they have. */
  close(how: { readonly kept: boolean }): void {
    this.#paused = true
    clearImmediate(this.#sweep)
    // They may be this daemon's again.
    this.#sweep = undefined
    for (const service of this.all) service.close(how)
    this.#services.clear()
  }

  #add(remembered: RememberedService, items: readonly BundleItem[]): Service {
    const { deposits, logger, times } = this.#parts
    const service = new Service(
      {
        times,
        logger,
        incarnation: this.incarnation,
        changed: () => this.#noteChange(),
        holds: name => deposits.update(name, this.#services.get(name)?.items ?? []),
      },
      remembered,
      items,
    )
    this.#services.set(service.name, service)
    return service
  }

  #noteChange(): void {
    this.#parts.changed()
    this.#sweep ??= setImmediate(() => {
      this.#sweep = undefined
      this.#dropEmpty()
    })
    this.#writeRightsHolders()
  }

  /** A name that nobody came to serve under is not kept. */
  #dropEmpty(): void {
    for (const service of this.all) {
      if (!service.empty) continue
      this.#services.delete(service.name)
      service.close({ kept: false })
      this.#parts.deposits.forget(service.name)
    }
    this.#writeRightsHolders()
  }

  #writeRightsHolders(): void {
    if (this.#paused) return
    try {
      this.#rightsHolders.write(this.all.map(service => service.remembered))
    } catch (error) {
      this.#parts.logger.warn(
        { err: error },
        'the list of rights-holders could not be written: a restart would not know whom to wait for',
      )
    }
  }
}
