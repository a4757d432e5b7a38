import { type Checks, checkMs, checkOptions, unchecked, wrongOption } from '../base/check-option.js'
import { FdbError } from '../errors.js'
import { OwnedFd } from '../kernel/index.js'
import { openPidfd } from '../os/liveness.js'
import { fdbroker } from '../proto/wire.js'
import { remoteError, type WireEnvelope } from '../wire/link.js'
import { deadlineError } from '../wire/pending.js'
import {
  type ClaimResult,
  checkDescriptorName,
  type DescriptorLease,
  type HeldDescriptor,
} from './held-descriptors.js'
import { ANSWER_MS, ASK, type Ask, type AskOptions, limitOf } from './requests.js'

export interface PutOptions extends AskOptions {
  /** How long it is held. Default `forever`: until it is removed. */
  lease?: DescriptorLease
  /** In place of one of that name. Default false: ERR_FDB_FD_TAKEN. */
  replace?: boolean
}

export interface ClaimOptions extends AskOptions {
  /** Others may have it too. Default false: no other process gets it until `release()`, or until this connection ends. */
  shared?: boolean
  /** Claimed for as long as this process lives, instead of this connection; with `shared` it is only told who has it. */
  while?: { readonly pid: number }
}

export interface ReleaseOptions extends AskOptions {
  /** The claim of this process (`while` of {@link ClaimOptions}), instead of that of this connection. */
  pid?: number
}

const PUT: Checks<PutOptions> = { ...ASK, lease: unchecked, replace: unchecked }
const CLAIM: Checks<ClaimOptions> = { ...ASK, shared: unchecked, while: unchecked }
const RELEASE: Checks<ReleaseOptions> = { ...ASK, pid: unchecked }

const { Op } = fdbroker.wire.DescriptorRequest
const FAILED = { code: 'ERR_FDB_REJECTED', message: 'the daemon did not do it' } as const

type Request = fdbroker.wire.DescriptorRequest.$Properties
type Reply = fdbroker.wire.DescriptorReply.$Properties

/**
 * Descriptors of any kind that a daemon holds for other processes, by name. All reject with ERR_FDB_NOT_A_DAEMON where none are held, and
 * as `OperatorClient.status()` does.
 */
export class HeldDescriptors {
  readonly #ask: Ask
  #requests = 0

  /** @internal See `OperatorClient.descriptors`. */
  constructor(ask: Ask) {
    this.#ask = ask
  }

  /** All of them, by name. */
  async list(options: AskOptions = {}): Promise<HeldDescriptor[]> {
    checkOptions('list()', options, ASK)
    return await this.#request({ op: Op.LIST }, 'the list of descriptors', options, ({ json }) =>
      listOf(json),
    )
  }

  /**
   * The list as it is, and again after each change; what changed while one was being looked at is told with the next. Ends with the loop,
   * throws when the daemon leaves, or `signal` aborts.
   */
  async *watch(options: AskOptions = {}): AsyncGenerator<HeldDescriptor[], void, undefined> {
    checkOptions('watch()', options, ASK)
    const { signal } = options
    const timeoutMs = limitOf(options, ANSWER_MS)
    const what = 'the list of descriptors'
    const request = ++this.#requests
    const over = new AbortController()
    const late = setTimeout(() => over.abort(deadlineError(what, timeoutMs)), timeoutMs)
    let latest: HeldDescriptor[] | null = null
    let failure: { readonly error: unknown } | null = null
    let wake = () => {}
    const told = (envelope: WireEnvelope) => {
      const reply = replyTo(request, envelope)
      if (reply === null) return null
      clearTimeout(late)
      latest = listOf(reply.json)
      wake()
      return 'part' as const
    }
    const limits = {
      what,
      timeoutMs: null,
      signal: signal === undefined ? over.signal : AbortSignal.any([signal, over.signal]),
    }
    this.#ask<never>({ descriptorRequest: { request, op: Op.WATCH } }, limits, told).catch(error => {
      failure = { error }
      wake()
    })
    try {
      for (;;) {
        if (latest === null && failure === null)
          await new Promise<void>(resolve => {
            wake = resolve
          })
        if (failure !== null) throw (failure as { error: unknown }).error
        const list = latest!
        latest = null
        yield list
      }
    } finally {
      clearTimeout(late)
      over.abort()
      const unwatch = { descriptorRequest: { request, op: Op.UNWATCH } }
      const ended = { what, timeoutMs, signal: undefined }
      this.#ask(unwatch, ended, envelope => replyTo(request, envelope) && { answer: null }).catch(() => {})
    }
  }

  /**
   * Has the daemon hold a duplicate; the descriptor stays the caller's. Rejects with ERR_FDB_FD_TAKEN, ERR_FDB_FD_CLAIMED (it would
   * replace what another process has claimed), ERR_FDB_TOO_MANY_NAMES; ERR_FDB_OPTION where the process of the lease has ended.
   */
  async put(name: string, fd: OwnedFd, options: PutOptions = {}): Promise<void> {
    checkOptions('put()', options, PUT)
    checkDescriptorName(name)
    if (!(fd instanceof OwnedFd)) throw wrongOption('fd', fd, 'an OwnedFd')
    const { lease = 'forever', replace = false } = options
    using lifetime = lifetimeOf(lease)
    const leaseMs = lease !== 'forever' && 'ms' in lease ? lease.ms : 0
    const request = { op: Op.PUT, name, replace, leaseMs }
    const sent = lifetime === null ? [fd] : [fd, lifetime]
    await this.#request(request, `the word that "${name}" is held`, options, () => undefined, sent)
  }

  /**
   * A duplicate, owned by the caller. Rejects with ERR_FDB_FD_UNKNOWN, ERR_FDB_FD_CLAIMED (`retryable`); with ERR_FDB_OPTION where the process
   * of `while` has ended.
   */
  async claim(name: string, options: ClaimOptions = {}): Promise<OwnedFd> {
    return (await this.claimAmong(name, options)).fd
  }

  /** @internal As {@link claim}, with how many other processes have claimed it for as long as they live. */
  async claimAmong(name: string, options: ClaimOptions = {}): Promise<ClaimResult> {
    checkOptions('claim()', options, CLAIM)
    using claimant = options.while === undefined ? null : pidfdFor('while', options.while.pid)
    const request = { op: Op.CLAIM, name, shared: options.shared ?? false }
    const sent = claimant === null ? undefined : [claimant]
    const read = ({ json }: Reply, fds: OwnedFd[]) => {
      const fd = fds.shift()
      if (fd !== undefined) return { fd, others: othersIn(json) }
      throw new FdbError('ERR_FDB_FDS_MISSING', `the descriptor "${name}" did not come with the answer`)
    }
    return await this.#request(request, `the descriptor "${name}"`, options, read, sent)
  }

  /**
   * Others may have it again. Claimed descriptors stay open here. Rejects with ERR_FDB_FD_UNKNOWN, ERR_FDB_FD_CLAIMED (by another one),
   * ERR_FDB_OPTION (the process has ended: it claims nothing any more).
   */
  async release(name: string, options: ReleaseOptions = {}): Promise<void> {
    checkOptions('release()', options, RELEASE)
    using claimant = options.pid === undefined ? null : pidfdFor('pid', options.pid)
    const sent = claimant === null ? undefined : [claimant]
    const request = { op: Op.RELEASE, name }
    await this.#request(request, `the word that "${name}" is released`, options, () => undefined, sent)
  }

  /** The daemon closes it, even if it is claimed: processes that have a duplicate keep theirs. Rejects with ERR_FDB_FD_UNKNOWN. */
  async remove(name: string, options: AskOptions = {}): Promise<void> {
    checkOptions('remove()', options, ASK)
    await this.#request(
      { op: Op.REMOVE, name },
      `the word that "${name}" is removed`,
      options,
      () => undefined,
    )
  }

  #request<T>(
    asked: Request,
    what: string,
    options: AskOptions,
    read: (reply: Reply, fds: OwnedFd[]) => T,
    sent?: readonly OwnedFd[],
  ): Promise<T> {
    const request = ++this.#requests
    return this.#ask(
      { descriptorRequest: { ...asked, request } },
      { what, timeoutMs: limitOf(options, ANSWER_MS), signal: options.signal },
      (envelope, fds) => {
        const reply = replyTo(request, envelope)
        return reply && { answer: read(reply, fds) }
      },
      sent,
    )
  }
}

/** Null: it is no answer to this request. Throws what it refuses with. */
function replyTo(request: number, { descriptorReply: reply }: WireEnvelope) {
  if (reply?.request !== request) return null
  if (!reply.ok) throw remoteError(reply, FAILED)
  return reply
}

function listOf(json: string | null | undefined): HeldDescriptor[] {
  try {
    const list: unknown = JSON.parse(json ?? '')
    if (Array.isArray(list)) return list
  } catch {
    // The error follows below.
  }
  throw new FdbError(
    'ERR_FDB_MESSAGE',
    `a list of descriptors has ${json?.length ?? 0} characters, and is none`,
  )
}

/** The pidfd of the process with which it goes; null: it is held without one. */
function lifetimeOf(lease: DescriptorLease): OwnedFd | null {
  if (lease === 'forever') return null
  if (typeof lease === 'object' && lease !== null && 'ms' in lease) {
    checkMs('lease', lease.ms, 1)
    return null
  }
  if (typeof lease !== 'object' || lease === null || !('pid' in lease))
    throw wrongOption('lease', lease, '"forever", { ms } or { pid }')
  return pidfdFor('lease', lease.pid)
}

/** Owned by the caller. Throws ERR_FDB_OPTION. */
function pidfdFor(option: string, pid: number): OwnedFd {
  if (!(Number.isInteger(pid) && pid > 0)) throw wrongOption(option, pid, 'the number of a process')
  const pidfd = openPidfd(pid)
  if (pidfd instanceof OwnedFd) return pidfd
  const wanted =
    pidfd === 'dead' ? 'a process that lives' : 'a process only where pidfds are to be had, not here'
  throw wrongOption(option, pid, wanted)
}

function othersIn(json: string | null | undefined): number {
  try {
    return Number(JSON.parse(json || '{}').others) || 0
  } catch {
    return 0
  }
}
