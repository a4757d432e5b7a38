import { readlinkSync, realpathSync, statSync } from 'node:fs'
import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import type { Caller } from '../../holder/admission.js'
import { hasEnded, type OwnedFd } from '../../kernel/index.js'
import { pidOf } from '../../os/liveness.js'
import type { Action, Allowed, Policy, ServicePolicy, Who } from './policy.js'
import { OWNERS_ONLY } from './policy.js'

/** The asking process: uid, gid and pid by the kernel's word at connect. */
export interface PeerCredentials {
  readonly pid: number
  readonly uid: number
  readonly gid: number
  /** The kernel has confirmed that it is that process's; null: its program cannot be proved. */
  readonly pidfd: OwnedFd | null
}

/** Borrows the pidfd. */
export function credentialsOf({ pid, uid, gid, pidfd, proven }: Caller): PeerCredentials {
  return { pid, uid, gid, pidfd: proven ? pidfd : null }
}

export interface Asked {
  readonly service: string
  /** The name of a descriptor. */
  readonly descriptor?: string
}

/** Checks each request against the configured policy. Logs every decision that lets something change, and every refusal. */
export class AccessCheck {
  readonly #logger: Logger
  readonly #own = process.geteuid?.() ?? 0
  #policy!: Policy
  /** Users beside the daemon's own and root that have a rule; null: any user. */
  #others: ReadonlySet<number> | null = new Set()

  constructor(policy: Policy, logger: Logger) {
    this.#logger = logger
    this.policy = policy
  }

  /** Counts for all that is asked from now on. */
  set policy(policy: Policy) {
    this.#policy = policy
    const uids = rulesOf(policy)
      .flatMap(({ who }) => who)
      .filter(({ owner }) => !owner)
      .map(({ uid }) => uid)
    const named = uids.filter(uid => uid !== null && !this.#isOwner(uid)) as number[]
    this.#others = uids.includes(null) ? null : new Set(named)
  }

  of(service: string): ServicePolicy {
    return this.#policy.services.get(service) ?? this.#policy.others
  }

  get descriptors(): ServicePolicy {
    return this.#policy.descriptors
  }

  /** A user other than the daemon's and root may do something. */
  get opensToOthers(): boolean {
    return this.#others?.size !== 0
  }

  /** Whether anything could be allowed to this user. */
  mayConnect(uid: number): boolean {
    return this.#isOwner(uid) || (this.#others?.has(uid) ?? true)
  }

  /** The services that the client may see (null: descriptors without one). Throws ERR_FDB_DENIED if it may see nothing. */
  lists(peer: PeerCredentials): (service: string | null) => boolean {
    const { descriptors, others, services } = this.#policy
    const subject = new Subject(peer, this.#own)
    const sees = ({ may }: ServicePolicy) => subject.ruleOf(may.list) !== null
    if (![others, descriptors, ...services.values()].some(sees))
      throw this.#deny('list', { service: '' }, { key: 'list', who: [] }, subject)
    return service => sees(service === null ? descriptors : this.of(service))
  }

  /** Throws ERR_FDB_DENIED. */
  demand(action: Action, asked: Asked, policy: ServicePolicy, peer: PeerCredentials): void {
    this.#demand(action, asked, policy.may[action], peer)
  }

  /** Reports whether a rule allows it; no line of the log. */
  allows(action: Action, policy: ServicePolicy, peer: PeerCredentials): boolean {
    return new Subject(peer, this.#own).ruleOf(policy.may[action]) !== null
  }

  /** Checks a request to the daemon itself. Throws ERR_FDB_DENIED. */
  demandDaemon(service: string, peer: PeerCredentials): void {
    this.#demand('operate', { service }, this.#policy.operate, peer)
  }

  /** The next daemon gets everything that there is: no configuration lets another user be one. Throws ERR_FDB_DENIED. */
  demandOwner(service: string, peer: PeerCredentials): void {
    this.#demand('join', { service }, { key: 'owner', who: [ONLY_OWNER] }, peer)
  }

  #demand(action: Action, asked: Asked, allowed: Allowed, peer: PeerCredentials): void {
    const subject = new Subject(peer, this.#own)
    const rule = subject.ruleOf(allowed)
    if (rule === null) throw this.#deny(action, asked, allowed, subject)
    // Where there is no configuration it is no news that the daemon's own user may.
    if (this.#policy === OWNERS_ONLY) return
    this.#logger.info({ audit: action, allowed: true, rule, ...asked, ...subject.told }, 'allowed')
  }

  #deny(action: Action, asked: Asked, { key }: Allowed, subject: Subject): FdbError {
    const { told } = subject
    this.#logger.warn({ audit: action, allowed: false, rule: key, ...asked, ...told }, 'denied')
    const { service, descriptor } = asked
    const what =
      descriptor !== undefined
        ? `the descriptor "${descriptor}"`
        : service === ''
          ? 'anything'
          : `"${service}"`
    const who = `uid ${told.uid}, gid ${told.gid}, ${told.executable ?? 'a program that cannot be seen'}`
    return new FdbError(
      'ERR_FDB_DENIED',
      `process ${told.pid} (${who}) may not ${action} ${what}: the daemon's configuration does not allow it (${key})`,
      { details: { action, ...asked, rule: key } },
    )
  }

  #isOwner(uid: number): boolean {
    return uid === this.#own || uid === 0
  }
}

/** A client as it is now: what it runs is looked at once, when it is asked for. */
class Subject {
  readonly #peer: PeerCredentials
  readonly #own: number
  #executable: Executable | null | undefined

  constructor(peer: PeerCredentials, own: number) {
    this.#peer = peer
    this.#own = own
  }

  /** For a line of the log. */
  get told() {
    const { uid, gid, pid } = this.#peer
    return { uid, gid, pid, executable: this.#runs?.path ?? null }
  }

  /** The rule that allows it: `services.shop.join[0]`; null: none does. */
  ruleOf({ key, who }: Allowed): string | null {
    const at = who.findIndex(one => this.#is(one))
    return at < 0 ? null : `${key}[${at}]`
  }

  #is(who: Who): boolean {
    const { uid, gid } = this.#peer
    if (who.owner) return uid === this.#own || uid === 0
    if (who.uid !== null && who.uid !== uid) return false
    if (who.gid !== null && who.gid !== gid) return false
    return who.executable === null || (this.#runs !== null && isProgram(this.#runs, who.executable))
  }

  get #runs(): Executable | null {
    if (this.#executable === undefined) this.#executable = executableOf(this.#peer.pidfd)
    return this.#executable
  }
}

function rulesOf({ descriptors, operate, others, services }: Policy): Allowed[] {
  return [operate, ...[others, descriptors, ...services.values()].flatMap(({ may }) => Object.values(may))]
}

const ONLY_OWNER: Who = { owner: true, uid: null, gid: null, executable: null }

interface Executable {
  /** The path in the process's own mount namespace, which need not exist elsewhere. */
  readonly path: string
  readonly dev: bigint
  readonly ino: bigint
  /** Its mounts are those of this process: the path means the same here. */
  readonly here: boolean
}

const DELETED = ' (deleted)'

/**
 * The program that the process of a pidfd runs now; null: it has ended, or cannot be looked at. It is read by number in /proc, then the
 * pidfd is asked: a process that has not ended had that number all along, so that no later one can lend it its program.
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

/** Whether it is the program at this path: the same file, or one that was started from there if the file was replaced since. */
export function isProgram({ path, dev, ino, here }: Executable, file: string): boolean {
  const there = statSync(file, { bigint: true, throwIfNoEntry: false })
  if (there !== undefined && there.dev === dev && there.ino === ino) return true
  if (!here || !path.endsWith(DELETED)) return false
  const before = path.slice(0, -DELETED.length)
  return before === file || (there !== undefined && before === realpathSync(file))
}
