import { FdbError } from '../errors.js'
import { isForeign } from '../holder/admission.js'
import { fdLimits } from '../os/limits.js'

/** Share of the daemon's descriptors that one other user may take. */
const USER_SHARE = 1 / 16
/** Share that all other users together may take; the remainder is reserved for the daemon's user and root. */
const ALL_USERS_SHARE = 1 / 4
/** A connection takes a socket and a pidfd. */
const DESCRIPTORS_PER_CONNECTION = 2
const MOST_CONNECTIONS = 512
const MOST_WATCHES = 16
const MOST_NAMES = 1_000
const MOST_SERVICES = 32

type Kind = 'connections' | 'watches'

/** Limits how much of a daemon other users may take. The daemon's user and root have no limits here. */
export class UserQuotas {
  /** Numbers in use, by kind, and by kind and user. */
  readonly #inUse = new Map<string, number>()
  readonly #perUser: number
  readonly #ofAllUsers: number

  /** `soft` is the number of descriptors that this process may have. */
  constructor(soft = fdLimits().soft ?? Number.POSITIVE_INFINITY) {
    this.#perUser = Math.floor(soft * USER_SHARE)
    this.#ofAllUsers = Math.floor(soft * ALL_USERS_SHARE)
  }

  /** Counts a connection until `closed` resolves. Returns an error if the user, or all users together, have too many. */
  connect(uid: number, closed: Promise<unknown>): FdbError | null {
    if (!isForeign({ uid })) return null
    const perUser = this.#within(MOST_CONNECTIONS, DESCRIPTORS_PER_CONNECTION)
    const ofAllUsers = Math.max(1, Math.floor(this.#ofAllUsers / DESCRIPTORS_PER_CONNECTION))
    if (this.#count('connections', uid) >= perUser) return quotaError(uid, 'connections', perUser)
    if (this.#count('connections') >= ofAllUsers)
      return quotaError(uid, 'connections of all other users together', ofAllUsers)
    void closed.then(this.#reserve('connections', uid))
    return null
  }

  /** Counts a watch; returns a function that ends the count. Throws ERR_FDB_SHARE. */
  watch(uid: number): () => void {
    if (!isForeign({ uid })) return () => {}
    if (this.#count('watches', uid) >= MOST_WATCHES) throw quotaError(uid, 'watches', MOST_WATCHES)
    return this.#reserve('watches', uid)
  }

  /** Throws ERR_FDB_SHARE if the user has too many descriptors and claims. `has` is their number including the new one. */
  demandNames(uid: number, has: number): void {
    if (!isForeign({ uid })) return
    // A descriptor may come with a pidfd.
    const most = this.#within(MOST_NAMES, 2)
    if (has > most) throw quotaError(uid, 'descriptors and claims', most)
  }

  /** Throws ERR_FDB_SHARE if the user has started too many services. `has` is their number including the new one. */
  demandServices(uid: number, has: number): void {
    if (isForeign({ uid }) && has > MOST_SERVICES) throw quotaError(uid, 'services', MOST_SERVICES)
  }

  #within(most: number, descriptors: number): number {
    return Math.max(1, Math.min(most, Math.floor(this.#perUser / descriptors)))
  }

  #count(kind: Kind, uid?: number): number {
    return this.#inUse.get(uid === undefined ? kind : `${kind} ${uid}`) ?? 0
  }

  #reserve(kind: Kind, uid: number): () => void {
    const add = (by: number) => {
      for (const key of [kind, `${kind} ${uid}`]) {
        const count = (this.#inUse.get(key) ?? 0) + by
        if (count > 0) this.#inUse.set(key, count)
        else this.#inUse.delete(key)
      }
    }
    add(1)
    let released = false
    return () => {
      if (!released) add(-1)
      released = true
    }
  }
}

function quotaError(uid: number, kind: string, most: number): FdbError {
  return new FdbError(
    'ERR_FDB_SHARE',
    `uid ${uid} may have ${most} ${kind} of this daemon, and has reached that limit: close some, or start the daemon with more descriptors (ulimit -n, LimitNOFILE=)`,
    { retryable: true, details: { uid, kind, most } },
  )
}
