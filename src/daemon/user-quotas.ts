import { FdbError } from '../errors.js'
import { isForeign } from '../holder/admission.js'
import { fdLimits } from '../os/limits.js'

/** A user's part of the descriptors that the process may have: the rest is for the daemon's own user and root, whatever others do. */
const OF_A_USER = 1 / 16
const OF_OTHERS = 1 / 4
/** Each connection takes its socket and a pidfd. */
const DESCRIPTORS_OF_A_CONNECTION = 2
const MOST_CONNECTIONS = 512
const MOST_WATCHES = 16
const MOST_NAMES = 1_000
const MOST_SERVICES = 32

type Kind = 'connections' | 'watches'

/** How much of a daemon each other user may take. The daemon's user and root are not limited here. */
export class UserQuotas {
  /** By kind and user. */
  readonly #taken = new Map<string, number>()
  readonly #ofAUser: number
  readonly #ofOthers: number

  /** `soft`: as many descriptors as the process may have. */
  constructor(soft = fdLimits().soft ?? Number.POSITIVE_INFINITY) {
    this.#ofAUser = Math.floor(soft * OF_A_USER)
    this.#ofOthers = Math.floor(soft * OF_OTHERS)
  }

  /** Takes a connection until it has closed; null, or why it may not be. */
  connect(uid: number, closed: Promise<unknown>): FdbError | null {
    if (!isForeign({ uid })) return null
    const ofAUser = this.#within(MOST_CONNECTIONS, DESCRIPTORS_OF_A_CONNECTION)
    const ofOthers = Math.max(1, Math.floor(this.#ofOthers / DESCRIPTORS_OF_A_CONNECTION))
    if (this.#count('connections', uid) >= ofAUser) return over(uid, 'connections', ofAUser)
    if (this.#count('connections') >= ofOthers)
      return over(uid, 'connections of all other users together', ofOthers)
    void closed.then(this.#reserve('connections', uid))
    return null
  }

  /** Takes a watch; returns what gives it back. Throws ERR_FDB_SHARE. */
  watch(uid: number): () => void {
    if (!isForeign({ uid })) return () => {}
    if (this.#count('watches', uid) >= MOST_WATCHES) throw over(uid, 'watches', MOST_WATCHES)
    return this.#reserve('watches', uid)
  }

  /** Throws ERR_FDB_SHARE where the user has put as many descriptors, or claims as many. `has`: with this one. */
  demandNames(uid: number, has: number): void {
    if (!isForeign({ uid })) return
    // Each may come with a pidfd.
    const most = this.#within(MOST_NAMES, 2)
    if (has > most) throw over(uid, 'descriptors and claims', most)
  }

  /** Throws ERR_FDB_SHARE where the user has begun as many services. `has`: with this one. */
  demandServices(uid: number, has: number): void {
    if (isForeign({ uid }) && has > MOST_SERVICES) throw over(uid, 'services', MOST_SERVICES)
  }

  #within(most: number, descriptors: number): number {
    return Math.max(1, Math.min(most, Math.floor(this.#ofAUser / descriptors)))
  }

  #count(kind: Kind, uid?: number): number {
    return this.#taken.get(uid === undefined ? kind : `${kind} ${uid}`) ?? 0
  }

  #reserve(kind: Kind, uid: number): () => void {
    const add = (by: number) => {
      for (const key of [kind, `${kind} ${uid}`]) {
        const count = (this.#taken.get(key) ?? 0) + by
        if (count > 0) this.#taken.set(key, count)
        else this.#taken.delete(key)
      }
    }
    add(1)
    let given = false
    return () => {
      if (!given) add(-1)
      given = true
    }
  }
}

function over(uid: number, kind: string, most: number): FdbError {
  return new FdbError(
    'ERR_FDB_SHARE',
    `uid ${uid} may have ${most} ${kind} of this daemon, and has as many: close some, or have the daemon started with more descriptors (ulimit -n, LimitNOFILE=)`,
    { retryable: true, details: { uid, kind, most } },
  )
}
