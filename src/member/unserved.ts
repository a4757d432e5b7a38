import { FdbError } from '../errors.js'
import type { Entry } from '../holder/registry.js'
import type { Listener } from './listener.js'

/** `true`: all of them; or those of these names. */
export type UnservedOption = boolean | readonly string[]

/**
 * What keeps a version from being ready: a listener on which clients are accepted now, and would not be by this version. That is one that it was
 * given no server for, or that the incumbent has opened since the Offer.
 */
export class Unserved {
  /** Opened by the incumbent since the Offer; `elsewhere`: this version has one of that name at another address already. */
  readonly #late = new Map<string, { readonly spec: string; readonly elsewhere: boolean }>()
  /** The application means it. */
  #meant: UnservedOption = false

  /** A listener has come behind the Offer. */
  comes({ name, spec }: Entry, elsewhere: boolean): void {
    this.#late.set(name, { spec, elsewhere })
  }

  /** `ready()` was told of these. */
  allow(meant: UnservedOption): void {
    this.#meant = meant
  }

  /** Throws ERR_FDB_UNSERVED. */
  check(listeners: readonly Listener[]): void {
    for (const [name, { spec, elsewhere }] of this.#late) {
      const taken = listeners.some(listener => listener.name === name && listener.adopted)
      if ((elsewhere || !taken) && !this.#isMeant(name)) throw openedMeanwhile(name, spec)
    }
    for (const listener of listeners)
      if (listener.adopted && !listener.served && !this.#isMeant(listener.name)) throw withoutServer(listener)
  }

  #isMeant(name: string): boolean {
    return typeof this.#meant === 'boolean' ? this.#meant : this.#meant.includes(name)
  }
}

function withoutServer({ name, address }: Listener): FdbError {
  return new FdbError(
    'ERR_FDB_UNSERVED',
    `listener "${name}" (${address.url}) was taken over and has no server: its clients would wait and never be accepted. Call serve() before ready(), or ready({ unserved: ['${name}'] }) where that is meant`,
    { details: { listener: name } },
  )
}

function openedMeanwhile(name: string, spec: string): FdbError {
  return new FdbError(
    'ERR_FDB_UNSERVED',
    `the incumbent has opened listener "${name}" (${spec}) while this version started, which does not listen there: its clients would be refused. Start the upgrade again, so that this version finds it; or call ready({ unserved: ['${name}'] }) where that is meant`,
    { retryable: true, details: { listener: name } },
  )
}
