import { CountByKey } from '../base/count-by-key.js'
import { FdbError } from '../errors.js'
import { isForeign } from '../holder/admission.js'
import { ForeignFds } from '../kernel/index.js'
import { fdLimits } from '../os/limits.js'
import type { ForeignUser } from '../wire/foreign-user.js'

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

/** Limit of the bytes of incomplete messages, and of those that wait for slow readers, of one user. */
const MOST_BYTES = 64 * 1024 * 1024
/** Limit of the same bytes of all other users together. */
const ALL_USERS_BYTES = 4 * MOST_BYTES

/** Shares of the event loop's time that one user, and all other users together, may take for long, and the milliseconds that they may take at once. */
const TIME_SHARE = 1 / 5
const ALL_USERS_TIME_SHARE = 2 / 5
const TIME_AT_ONCE_MS = 8
/** No more debt is counted: a user that floods the daemon waits at most this long, divided by the share. */
const MOST_DEBT_MS = 200
/** Limits of the connections of one user, and of all other users together, that wait until that user's time is back. */
const MOST_IN_TURN = 16
const MOST_IN_TURN_OF_ALL = 64
/** Delay until it is looked whether descriptors that a user has sent are closed, so that it may send others. */
const CLOSING_MS = 5
type Kind = 'connections' | 'watches'

/** Limits how much of a daemon other users may take. The daemon's user and root have no limits here. */
export class UserQuotas {
  /** Numbers in use, by kind, and by kind and user. */
  readonly #inUse = new CountByKey<string>()
  readonly #perUser: number
  readonly #ofAllUsers: number
  readonly #foreignUsers = new Map<number, CountedUser>()
  readonly #all: AllUsers

  /** `soft` is the number of descriptors that this process may have. */
  constructor(soft = fdLimits().soft ?? Number.POSITIVE_INFINITY) {
    this.#perUser = Math.floor(soft * USER_SHARE)
    this.#ofAllUsers = Math.floor(soft * ALL_USERS_SHARE)
    this.#all = {
      fds: this.#ofAllUsers,
      bytes: 0,
      inTurn: 0,
      time: new TimeShare(ALL_USERS_TIME_SHARE),
      foreignUsers: this.#foreignUsers,
    }
  }

  /** Returns what counts the messages and descriptors of a user; undefined for the daemon's user and root. */
  foreignUserOf(uid: number): ForeignUser | undefined {
    if (!isForeign({ uid })) return undefined
    let foreignUser = this.#foreignUsers.get(uid)
    if (foreignUser === undefined) {
      // Users that are gone take no more than an entry, until there are many.
      if (this.#foreignUsers.size >= MOST_CONNECTIONS) this.#dropIdle()
      foreignUser = new CountedUser(uid, Math.max(1, this.#perUser), this.#all)
      this.#foreignUsers.set(uid, foreignUser)
    }
    return foreignUser
  }

  #dropIdle(): void {
    for (const [uid, foreignUser] of this.#foreignUsers)
      if (foreignUser.idle && this.#count('connections', uid) === 0) this.#foreignUsers.delete(uid)
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
    return this.#inUse.of(uid === undefined ? kind : `${kind} ${uid}`)
  }

  #reserve(kind: Kind, uid: number): () => void {
    const add = (by: number) => {
      for (const key of [kind, `${kind} ${uid}`]) this.#inUse.add(key, by)
    }
    add(1)
    let released = false
    return () => {
      if (!released) add(-1)
      released = true
    }
  }
}

/** A share of time: it may be used at once up to {@link TIME_AT_ONCE_MS}, and comes back at a steady rate. */
class TimeShare {
  readonly #rate: number
  #left = TIME_AT_ONCE_MS
  #at = performance.now()

  constructor(rate: number) {
    this.#rate = rate
  }

  spend(ms: number): void {
    this.#refill()
    this.#left = Math.max(-MOST_DEBT_MS, this.#left - ms)
  }

  get waitMs(): number {
    this.#refill()
    return Math.max(0, -this.#left / this.#rate)
  }

  /** Whether at least this part of what may be used at once is left. */
  hasLeft(part: number): boolean {
    this.#refill()
    return this.#left >= TIME_AT_ONCE_MS * part
  }

  #refill(): void {
    const now = performance.now()
    this.#left = Math.min(TIME_AT_ONCE_MS, this.#left + (now - this.#at) * this.#rate)
    this.#at = now
  }
}

interface AllUsers {
  /** Limit of the descriptors of all users. */
  readonly fds: number
  bytes: number
  /** Number of connections that wait. */
  inTurn: number
  readonly time: TimeShare
  readonly foreignUsers: ReadonlyMap<number, CountedUser>
}

class CountedUser implements ForeignUser {
  readonly fds: ForeignFds
  readonly #uid: number
  readonly #mostFds: number
  readonly #all: AllUsers
  readonly #time = new TimeShare(TIME_SHARE)
  readonly #inTurn: (() => void)[] = []
  #bytes = 0

  constructor(uid: number, mostFds: number, all: AllUsers) {
    this.fds = new ForeignFds(uid)
    this.#uid = uid
    this.#mostFds = mostFds
    this.#all = all
  }

  get idle(): boolean {
    return this.#bytes === 0 && this.fds.count === 0 && this.#inTurn.length === 0 && this.#time.hasLeft(1)
  }

  demandFds(): FdbError | null {
    if (this.fds.count > this.#mostFds)
      return quotaError(this.#uid, 'descriptors that it has sent', this.#mostFds)
    let all = 0
    for (const { fds } of this.#all.foreignUsers.values()) all += fds.count
    const most = Math.max(1, this.#all.fds)
    return all > most
      ? quotaError(this.#uid, 'descriptors that all other users together have sent', most)
      : null
  }

  demandKept(): FdbError | null {
    const most = Math.max(1, Math.floor(this.#mostFds / 2))
    return this.fds.count > most ? quotaError(this.#uid, 'descriptors that it has registered', most) : null
  }

  holdBytes(by: number): FdbError | null {
    this.#bytes += by
    this.#all.bytes += by
    if (by <= 0) return null
    if (this.#bytes > MOST_BYTES) return bytesError(this.#uid, 'its', MOST_BYTES)
    return this.#all.bytes > ALL_USERS_BYTES
      ? bytesError(this.#uid, 'all other users’', ALL_USERS_BYTES)
      : null
  }

  spend(ms: number): void {
    this.#time.spend(ms)
    this.#all.time.spend(ms)
  }

  get waitMs(): number {
    // A user that has used little for a while does not wait because others flood the daemon.
    const forTime = this.#time.hasLeft(1 / 2) ? 0 : Math.max(this.#time.waitMs, this.#all.time.waitMs)
    return this.#mayReceive ? forTime : Math.max(forTime, CLOSING_MS)
  }

  /** Whether the user has room for descriptors. If none wait to be closed, its connections are read without room, and end. */
  get #mayReceive(): boolean {
    if (this.demandFds() === null) return true
    for (const { fds } of this.#all.foreignUsers.values()) if (fds.closing > 0) return false
    return true
  }

  inTurn(serve: () => void): boolean {
    const first = this.#inTurn.length === 0
    if (first && this.waitMs <= 0) {
      serve()
      return true
    }
    if (this.#inTurn.length >= MOST_IN_TURN || this.#all.inTurn >= MOST_IN_TURN_OF_ALL) return false
    this.#all.inTurn++
    this.#inTurn.push(serve)
    if (first) this.#serveLater()
    return true
  }

  /** Serves the connections that wait, while the user's time lasts. */
  #serveLater(): void {
    const serveNext = () => {
      if (this.waitMs <= 0) {
        this.#all.inTurn--
        this.#inTurn.shift()!()
      }
      if (this.#inTurn.length > 0) this.#serveLater()
    }
    setTimeout(serveNext, Math.ceil(this.waitMs)).unref()
  }
}

function bytesError(uid: number, whose: string, most: number): FdbError {
  return new FdbError(
    'ERR_FDB_SHARE',
    `the daemon holds ${most} bytes of ${whose} messages that are incomplete or not read yet, which is the limit for uid ${uid}: complete messages, and read the answers`,
    { retryable: true, details: { uid, kind: 'bytes', most } },
  )
}

function quotaError(uid: number, kind: string, most: number): FdbError {
  return new FdbError(
    'ERR_FDB_SHARE',
    `uid ${uid} may have ${most} ${kind} of this daemon, and has reached that limit: close some, or start the daemon with more descriptors (ulimit -n, LimitNOFILE=)`,
    { retryable: true, details: { uid, kind, most } },
  )
}
