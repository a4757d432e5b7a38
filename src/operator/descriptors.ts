import { afterReading } from '../base/after-reading.js'
import { CountByKey } from '../base/count-by-key.js'
import { jsonObject, jsonValue } from '../base/json.js'
import { checkOptions } from '../checks/options.js'
import { wrongOption } from '../checks/place.js'
import { absent, map, optional, type ShapeOf } from '../checks/shape.js'
import { milliseconds, unchecked } from '../checks/values.js'
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
import { ANSWER_MS, ASK, type Ask, type AskExtras, type AskOptions, limitOf } from './requests.js'

export interface PutOptions extends AskOptions {
  /** How long the daemon holds the descriptor. Default `forever`: until it is removed. */
  lease?: DescriptorLease | undefined
  /** Replaces a descriptor of the same name. Default false: rejects with ERR_FDB_FD_TAKEN. */
  replace?: boolean | undefined
}

export interface ClaimOptions extends AskOptions {
  /** Other processes may claim the descriptor too. Default false: no other process gets it until the claim ends. */
  shared?: boolean | undefined
  /** The claim lasts until the process `pid` ends, not only until the connection ends. With `shared` it only lists `pid` as a user. */
  while?: { readonly pid: number } | undefined
}

export interface ReleaseOptions extends AskOptions {
  /** Ends the claim that was made with `while: { pid }` ({@link ClaimOptions}), not the claim of this connection. */
  pid?: number | undefined
}

const ANSWER = map(ASK)
const PUT = map({
  ...ASK,
  lease: optional(unchecked<DescriptorLease>(), 'forever'),
  replace: optional(unchecked<boolean>(), false),
} satisfies ShapeOf<PutOptions>)
const CLAIM = map({
  ...ASK,
  shared: optional(unchecked<boolean>(), false),
  while: absent(unchecked<{ readonly pid: number }>()),
} satisfies ShapeOf<ClaimOptions>)
const RELEASE = map({ ...ASK, pid: absent(unchecked<number>()) } satisfies ShapeOf<ReleaseOptions>)

const { Op } = fdbroker.wire.DescriptorRequest
const FAILED = { code: 'ERR_FDB_REJECTED', message: 'the daemon refused the request' } as const

type Request = fdbroker.wire.DescriptorRequest.$Properties
type Reply = fdbroker.wire.DescriptorReply.$Properties

/**
 * Descriptors of any type that a daemon holds for other processes, by name. All methods reject with ERR_FDB_NOT_A_DAEMON if the process is
 * not a daemon, and as `OperatorClient.status()` does.
 */
export class HeldDescriptors {
  readonly #ask: Ask
  /** Number of claims that callers wait for or have, by {@link claimKey}. While there is one, a late answer to another ends no claim. */
  readonly #claims = new CountByKey<string>()
  #requests = 0

  /** @internal See `OperatorClient.descriptors`. */
  constructor(ask: Ask) {
    this.#ask = ask
  }

  /** Returns all descriptors, sorted by name. */
  async list(options: AskOptions = {}): Promise<HeldDescriptor[]> {
    checkOptions('list()', options, ANSWER)
    return await this.#request({ op: Op.LIST }, 'the list of descriptors', options, ({ json }) =>
      listOf(json),
    )
  }

  /**
   * Yields the list of descriptors at once and after changes; several changes during an iteration of the loop result in one list. Stops
   * watching when the loop ends. Throws if the daemon disconnects or `signal` aborts.
   */
  async *watch(options: AskOptions = {}): AsyncGenerator<HeldDescriptor[], void, undefined> {
    checkOptions('watch()', options, ANSWER)
    const { signal } = options
    const timeoutMs = limitOf(options, ANSWER_MS)
    const what = 'the list of descriptors'
    const request = ++this.#requests
    const ended = new AbortController()
    const late = () => ended.abort(deadlineError(what, timeoutMs))
    const limit = afterReading(timeoutMs, late)
    let latest: HeldDescriptor[] | null = null
    let failure: { readonly error: unknown } | null = null
    let wake = () => {}
    const onMessage = (envelope: WireEnvelope) => {
      const reply = replyTo(request, envelope)
      if (reply === null) return null
      limit.clear()
      latest = listOf(reply.json)
      wake()
      return 'part' as const
    }
    const limits = {
      what,
      timeoutMs: null,
      signal: signal === undefined ? ended.signal : AbortSignal.any([signal, ended.signal]),
    }
    this.#ask<never>({ descriptorRequest: { request, op: Op.WATCH } }, limits, onMessage).catch(error => {
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
      limit.clear()
      ended.abort()
      const unwatch = { descriptorRequest: { request, op: Op.UNWATCH } }
      const unwatchLimits = { what, timeoutMs, signal: undefined }
      this.#ask(unwatch, unwatchLimits, envelope => replyTo(request, envelope) && { answer: null }).catch(
        () => {},
      )
    }
  }

  /**
   * Gives a duplicate of `fd` to the daemon; the caller keeps `fd`. Rejects with ERR_FDB_FD_TAKEN, ERR_FDB_FD_CLAIMED (another process has
   * claimed the descriptor to replace), ERR_FDB_TOO_MANY_NAMES, or ERR_FDB_OPTION (the process of the lease has ended).
   */
  async put(name: string, fd: OwnedFd, options: PutOptions = {}): Promise<void> {
    const { lease, replace } = checkOptions('put()', options, PUT)
    checkDescriptorName(name)
    if (!(fd instanceof OwnedFd)) throw wrongOption('fd', fd, 'an OwnedFd')
    using lifetime = lifetimeOf(lease)
    const leaseMs = lease !== 'forever' && 'ms' in lease ? lease.ms : 0
    const request = { op: Op.PUT, name, replace, leaseMs }
    const sent = lifetime === null ? [fd] : [fd, lifetime]
    const what = `the confirmation that "${name}" is held`
    await this.#request(request, what, options, () => undefined, { sent })
  }

  /**
   * Claims a descriptor and returns a duplicate, which the caller owns. Rejects with ERR_FDB_FD_UNKNOWN, ERR_FDB_FD_CLAIMED (`retryable`),
   * or ERR_FDB_OPTION (the process of `while` has ended).
   */
  async claim(name: string, options: ClaimOptions = {}): Promise<OwnedFd> {
    return (await this.claimAmong(name, options)).fd
  }

  /** @internal Claims as {@link claim} does. Also returns the number of other processes that have claimed the descriptor until they end. */
  async claimAmong(name: string, options: ClaimOptions = {}): Promise<ClaimResult> {
    const { shared, while: lasting } = checkOptions('claim()', options, CLAIM)
    using claimant = lasting === undefined ? null : pidfdFor('while', lasting.pid)
    const request = { op: Op.CLAIM, name, shared }
    const sent = claimant === null ? undefined : [claimant]
    const read = ({ json }: Reply, fds: OwnedFd[]) => {
      const fd = fds.shift()
      if (fd !== undefined) return { fd, others: Number(jsonObject(json ?? '')?.others) || 0 }
      throw new FdbError('ERR_FDB_FDS_MISSING', `the answer came without the descriptor "${name}"`)
    }
    const pid = options.while?.pid
    const key = claimKey(name, pid)
    const claims = claimant !== null || !request.shared
    // The caller does not know that it has the claim, so it never releases it.
    const late = ({ fd }: ClaimResult) => {
      fd.close()
      if (claims && !this.#claims.has(key))
        this.release(name, pid === undefined ? {} : { pid }).catch(() => {})
    }
    if (claims) this.#claims.add(key)
    try {
      return await this.#request(request, `the descriptor "${name}"`, options, read, { sent, late })
    } catch (error) {
      if (claims) this.#claims.add(key, -1)
      throw error
    }
  }

  /**
   * Ends a claim; the caller's duplicate stays open. Rejects with ERR_FDB_FD_UNKNOWN, ERR_FDB_FD_CLAIMED (another process has the claim),
   * or ERR_FDB_OPTION (the process `pid` has ended, and its claim with it).
   */
  async release(name: string, options: ReleaseOptions = {}): Promise<void> {
    checkOptions('release()', options, RELEASE)
    using claimant = options.pid === undefined ? null : pidfdFor('pid', options.pid)
    const what = `the confirmation that "${name}" is released`
    const sent = claimant === null ? undefined : [claimant]
    await this.#request({ op: Op.RELEASE, name }, what, options, () => undefined, { sent })
    this.#claims.delete(claimKey(name, options.pid))
  }

  /** Closes the daemon's descriptor, even if it is claimed. Processes keep their duplicates. Rejects with ERR_FDB_FD_UNKNOWN. */
  async remove(name: string, options: AskOptions = {}): Promise<void> {
    checkOptions('remove()', options, ANSWER)
    const what = `the confirmation that "${name}" is removed`
    await this.#request({ op: Op.REMOVE, name }, what, options, () => undefined)
  }

  #request<T>(
    body: Request,
    what: string,
    options: AskOptions,
    read: (reply: Reply, fds: OwnedFd[]) => T,
    extras?: AskExtras<T>,
  ): Promise<T> {
    const request = ++this.#requests
    return this.#ask(
      { descriptorRequest: { ...body, request } },
      { what, timeoutMs: limitOf(options, ANSWER_MS), signal: options.signal },
      (envelope, fds) => {
        const reply = replyTo(request, envelope)
        return reply && { answer: read(reply, fds) }
      },
      extras,
    )
  }
}

/** Returns the key of a claim that ends with the process `pid` or, if that is undefined, with the connection. */
function claimKey(name: string, pid: number | undefined): string {
  return `${name}:${pid ?? ''}`
}

/** Returns the answer to this request; null for another message. Throws the daemon's refusal. */
function replyTo(request: number, { descriptorReply: reply }: WireEnvelope) {
  if (reply?.request !== request) return null
  if (!reply.ok) throw remoteError(reply, FAILED)
  return reply
}

function listOf(json: string | null | undefined): HeldDescriptor[] {
  const list = jsonValue(json ?? '')
  if (Array.isArray(list)) return list
  throw new FdbError(
    'ERR_FDB_MESSAGE',
    `the daemon sent ${json?.length ?? 0} characters that are not a list of descriptors`,
  )
}

/** Returns the pidfd of the lease's process, or null for a lease without one. */
function lifetimeOf(lease: DescriptorLease): OwnedFd | null {
  if (lease === 'forever') return null
  if (typeof lease === 'object' && lease !== null && 'ms' in lease) {
    checkOptions('put()', lease.ms, milliseconds(1), 'lease')
    return null
  }
  if (typeof lease !== 'object' || lease === null || !('pid' in lease))
    throw wrongOption('lease', lease, '"forever", { ms } or { pid }')
  return pidfdFor('lease', lease.pid)
}

/** Opens a pidfd, which the caller owns. Throws ERR_FDB_OPTION. */
function pidfdFor(option: string, pid: number): OwnedFd {
  if (!(Number.isInteger(pid) && pid > 0)) throw wrongOption(option, pid, 'the number of a process')
  const pidfd = openPidfd(pid)
  if (pidfd instanceof OwnedFd) return pidfd
  const wanted =
    pidfd === 'dead'
      ? 'a living process'
      : 'no process: pidfd_open is missing or refused (a filter of system calls, seccomp), or no descriptor is free'
  throw wrongOption(option, pid, wanted)
}
