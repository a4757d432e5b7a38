import type { DescriptorHolder } from '../operator/held-descriptors.js'
import { NotifyDesk, type NotifyDeskParts } from './notify-desk.js'
import type { DescriptorStore } from './service/descriptor-store.js'
import { ProgramStore } from './service/program-store.js'

export interface ProgramsParts extends Omit<NotifyDeskParts, 'programs'> {
  readonly descriptors: DescriptorStore
  /** The same, as operators use it. */
  readonly holder: Pick<DescriptorHolder, 'put' | 'remove'>
  /** So many are kept for a service. */
  readonly most: number
}

/** What a daemon keeps for programs, as long as it serves: a notify socket, and what they give away there. */
export class Programs {
  readonly #parts: ProgramsParts
  #open: { readonly store: ProgramStore; readonly desk: NotifyDesk } | null = null
  /** Why there is no notify socket. */
  failure: unknown = null

  constructor(parts: ProgramsParts) {
    this.#parts = parts
  }

  /** Null: there is no notify socket now. */
  get there(): { readonly store: ProgramStore; readonly notifySocket: string } | null {
    return this.#open && { store: this.#open.store, notifySocket: this.#parts.path }
  }

  /** The daemon serves. What fails is logged. */
  open(): void {
    const { descriptors: store, holder, logger, most, path } = this.#parts
    const programs = new ProgramStore({
      store,
      holder,
      most,
      refused: (facts, why) => logger.warn(facts, why),
    })
    try {
      const desk = new NotifyDesk({ ...this.#parts, programs })
      this.#open = { store: programs, desk }
    } catch (error) {
      programs[Symbol.dispose]()
      this.failure = error
      logger.error({ err: error, path }, 'there is no notify socket: programs cannot give descriptors away')
    }
  }

  /** `kept`: another process goes on with it. Idempotent. */
  close(how: { readonly kept: boolean }): void {
    this.#open?.desk.close(how)
    this.#open?.store[Symbol.dispose]()
    this.#open = null
  }
}
