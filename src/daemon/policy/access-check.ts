import { type BigIntStats, readlinkSync, realpathSync, statSync } from 'node:fs'
import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { Caller } from '../../holder/admission.js'
import { hasEnded, type OwnedFd } from '../../kernel/index.js'
import { pidOf } from '../../os/liveness.js'
import type { Action, AllowList, Policy, ProcessMatch, ServicePolicy } from './policy.js'
import { OWNER, OWNERS_ONLY } from './policy.js'

/** The requesting process: uid, gid and pid as the kernel reported them at connect. */
export interface ClientIdentity {
  readonly pid: number
  readonly uid: number
  readonly gid: number
  /** A pidfd that the kernel has confirmed to refer to the process. If null, rules cannot check the process's program. */
  readonly pidfd: OwnedFd | null
}

/** Borrows the pidfd. */
export function clientIdentity({ pid, uid, gid, pidfd, proven }: Caller): ClientIdentity {
  return { pid, uid, gid, pidfd: proven ? pidfd : null }
}

export interface AccessTarget {
  readonly service: string
  readonly descriptor?: string
}

/** Checks each request against the configured policy. Logs every refusal, and every permission for a change. */
export class AccessCheck {
  readonly #logger: Logger
  readonly #own = process.geteuid?.() ?? 0
  #policy!: Policy
  /** Users besides root and the daemon's own that have a rule; null if a rule applies to any user. */
  #otherUsers: ReadonlySet<number> | null = new Set()

  constructor(policy: Policy, logger: Logger) {
    this.#logger = logger
    this.policy = policy
  }

  set policy(policy: Policy) {
    this.#policy = policy
    const uids = rulesOf(policy)
      .flatMap(({ who }) => who)
      .filter(({ owner }) => !owner)
      .map(({ uid }) => uid)
    const named = uids.filter(uid => uid !== null && !this.#isOwner(uid)) as number[]
    this.#otherUsers = uids.includes(null) ? null : new Set(named)
  }

  /** Returns the policy of a service; null stands for the descriptors without a service. */
  policyOf(service: string | null): ServicePolicy {
    const { descriptors, others, services } = this.#policy
    return service === null ? descriptors : (services.get(service) ?? others)
  }

  /** Whether a rule allows anything to users other than root and the daemon's own. */
  get opensToOthers(): boolean {
    return this.#otherUsers?.size !== 0
  }

  /** Whether a rule may allow anything to this user. */
  mayConnect(uid: number): boolean {
    return this.#isOwner(uid) || (this.#otherUsers?.has(uid) ?? true)
  }

  /** Returns a function that tells whether the client may see a service, as one that may operate it does. Throws ERR_FDB_DENIED if the client may see nothing. */
  statusFilter(peer: ClientIdentity): (service: string | null) => boolean {
    return this.#filter(peer, ['list', 'operate'])
  }

  /** Returns a function that tells whether the client may list the descriptors of a service, or (null) those without one. Throws ERR_FDB_DENIED if it may list none. */
  listFilter(peer: ClientIdentity): (service: string | null) => boolean {
    return this.#filter(peer, ['list'])
  }

  #filter(peer: ClientIdentity, actions: readonly Action[]): (service: string | null) => boolean {
    const { descriptors, others, services } = this.#policy
    const subject = new Subject(peer, this.#own)
    const sees = ({ may }: ServicePolicy) => actions.some(action => subject.ruleOf(may[action]) !== null)
    if (![others, descriptors, ...services.values()].some(sees))
      throw this.#deny('list', { service: '' }, { key: 'list', who: [] }, subject)
    return service => sees(this.policyOf(service))
  }

  /** Throws ERR_FDB_DENIED. */
  demand(action: Action, asked: AccessTarget, policy: ServicePolicy, peer: ClientIdentity): void {
    this.#demand(action, asked, policy.may[action], peer)
  }

  /** Whether a rule allows the action. Does not log. */
  allows(action: Action, policy: ServicePolicy, peer: ClientIdentity): boolean {
    return new Subject(peer, this.#own).ruleOf(policy.may[action]) !== null
  }

  /** Whether a rule allows the client to operate any service, or the daemon. Does not log. */
  operatesAny(peer: ClientIdentity): boolean {
    const { operate, others, services } = this.#policy
    const subject = new Subject(peer, this.#own)
    const rules = [operate, ...[others, ...services.values()].map(({ may }) => may.operate)]
    return rules.some(rule => subject.ruleOf(rule) !== null)
  }

  /** Checks a request to the daemon itself. Throws ERR_FDB_DENIED. */
  demandDaemon(service: string, peer: ClientIdentity): void {
    this.#demand('operate', { service }, this.#policy.operate, peer)
  }

  /** Checks that the next daemon runs as root or as this daemon's user. No rule can allow another user, because the next daemon gets all descriptors and state. Throws ERR_FDB_DENIED. */
  demandOwner(service: string, peer: ClientIdentity): void {
    this.#demand('join', { service }, { key: 'owner', who: [OWNER] }, peer)
  }

  #demand(action: Action, asked: AccessTarget, allowed: AllowList, peer: ClientIdentity): void {
    const subject = new Subject(peer, this.#own)
    const rule = subject.ruleOf(allowed)
    if (rule === null) throw this.#deny(action, asked, allowed, subject)
    // Without a configuration only root and the daemon's own user have any rights.
    if (this.#policy === OWNERS_ONLY) return
    this.#logger.info({ audit: action, allowed: true, rule, ...asked, ...subject.logFields }, 'allowed')
  }

  #deny(action: Action, asked: AccessTarget, { key }: AllowList, subject: Subject): FdbError {
    const { logFields } = subject
    this.#logger.warn({ audit: action, allowed: false, rule: key, ...asked, ...logFields }, 'denied')
    const { service, descriptor } = asked
    const what =
      descriptor !== undefined
        ? `the descriptor "${descriptor}"`
        : service === ''
          ? 'anything'
          : `"${service}"`
    const who = `uid ${logFields.uid}, gid ${logFields.gid}, ${logFields.executable ?? 'a program that cannot be seen'}`
    return new FdbError(
      'ERR_FDB_DENIED',
      `process ${logFields.pid} (${who}) may not ${action} ${what}: the daemon's configuration does not allow it (${key})`,
      { details: { action, ...asked, rule: key } },
    )
  }

  #isOwner(uid: number): boolean {
    return uid === this.#own || uid === 0
  }
}

/** A client during one check, whose program is looked up at most once, when a rule needs it. */
class Subject {
  readonly #peer: ClientIdentity
  readonly #own: number
  #executable: Executable | null | undefined

  constructor(peer: ClientIdentity, own: number) {
    this.#peer = peer
    this.#own = own
  }

  get logFields() {
    const { uid, gid, pid } = this.#peer
    return { uid, gid, pid, executable: this.#program?.path ?? null }
  }

  /** Returns the key of the rule that matches the client, such as `services.shop.join[0]`, or null. */
  ruleOf({ key, who }: AllowList): string | null {
    const at = who.findIndex(match => this.#matches(match))
    return at < 0 ? null : `${key}[${at}]`
  }

  #matches(match: ProcessMatch): boolean {
    const { uid, gid } = this.#peer
    if (match.owner) return uid === this.#own || uid === 0
    if (match.uid !== null && match.uid !== uid) return false
    if (match.gid !== null && match.gid !== gid) return false
    return match.executable === null || (this.#program !== null && isProgram(this.#program, match.executable))
  }

  get #program(): Executable | null {
    if (this.#executable === undefined) this.#executable = executableOf(this.#peer.pidfd)
    return this.#executable
  }
}

function rulesOf({ descriptors, operate, others, services }: Policy): AllowList[] {
  return [operate, ...[others, descriptors, ...services.values()].flatMap(({ may }) => Object.values(may))]
}

interface Executable {
  /** The path in the mount namespace of the process, which may not exist in other ones. */
  readonly path: string
  readonly dev: bigint
  readonly ino: bigint
  /** The process has the same mount namespace as this one, so that the path names the same file here. */
  readonly here: boolean
}

const DELETED = ' (deleted)'

/**
 * Returns the program that the process of a pidfd runs now, or null if the process has ended or cannot be inspected. Reads /proc by pid, then
 * checks through the pidfd that the process still lives, so that /proc did not show another process with a reused pid.
 */
export function executableOf(pidfd: OwnedFd | null): Executable | null {
  const pid = pidfd === null ? 0 : pidOf(pidfd)
  if (pidfd === null || pid === 0) return null
  try {
    const link = `/proc/${pid}/exe`
    const path = readlinkSync(link)
    const { dev, ino } = statSync(link, { bigint: true })
    const here = readlinkSync(`/proc/${pid}/ns/mnt`) === readlinkSync('/proc/self/ns/mnt')
    return hasEnded(pidfd) ? null : { path, dev, ino, here }
  } catch {
    return null
  }
}

/** Whether the executable is the program at `file`: the same file, or the previous one at that path if it was replaced after the start. */
export function isProgram({ path, dev, ino, here }: Executable, file: string): boolean {
  const present = statIfPresent(file)
  if (present !== undefined && present.dev === dev && present.ino === ino) return true
  if (!here || !path.endsWith(DELETED)) return false
  const original = path.slice(0, -DELETED.length)
  return original === file || (present !== undefined && original === realpathSync(file))
}

/** Returns undefined for a path that leads to no file. Never throws: the path may belong to another user, and a bad path must not break the check of other rules. */
function statIfPresent(file: string): BigIntStats | undefined {
  try {
    return statSync(file, { bigint: true })
  } catch {
    return undefined
  }
}
