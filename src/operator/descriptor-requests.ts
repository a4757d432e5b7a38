import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'
import { fdbroker } from '../proto/wire.js'
import type { Link, WireBody } from '../wire/link.js'
import { checkDescriptorName, type DescriptorHolder, type DescriptorUser } from './held-descriptors.js'

type Request = fdbroker.wire.DescriptorRequest.$Properties
const { Op } = fdbroker.wire.DescriptorRequest

/** An answer. The sender closes the descriptors after sending it. */
export interface DescriptorAnswer {
  readonly body: WireBody
  readonly fds: readonly OwnedFd[]
}

/** Handles the descriptor requests of one operator until it disconnects. */
export class DescriptorRequests {
  readonly #link: Link
  readonly #holder: DescriptorHolder | undefined
  readonly #user: DescriptorUser
  /** Functions that end the watches, by request number. */
  readonly #watches = new Map<number, () => void>()
  #claimed = false

  /** Without a `holder` all requests fail: the process holds no descriptors for others. */
  constructor(link: Link, holder: DescriptorHolder | undefined) {
    this.#link = link
    this.#holder = holder
    const { pid, uid } = link.channel.peer
    this.#user = { pid, uid }
  }

  /** Whether the connection must stay open although it is idle: it has a watch, or a claim that ends with it. */
  get lasting(): boolean {
    return this.#watches.size > 0 || this.#claimed
  }

  /** Executes a request. Removes the descriptors that it takes from `fds`. Never throws. */
  answer(body: Request, fds: OwnedFd[]): DescriptorAnswer {
    const request = body.request ?? 0
    try {
      const { json = '', sent = [] } = this.#carryOut(request, body, fds)
      return { body: { descriptorReply: { request, ok: true, json } }, fds: sent }
    } catch (error) {
      return { body: failedReply(request, error), fds: [] }
    }
  }

  /** Ends the watches and claims of an operator that has disconnected. */
  close(): void {
    for (const end of this.#watches.values()) end()
    this.#watches.clear()
    this.#holder?.operatorLeft(this.#user)
  }

  #carryOut(
    request: number,
    { op, name = '', leaseMs, replace, shared }: Request,
    fds: OwnedFd[],
  ): { json?: string; sent?: OwnedFd[] } {
    const holder = this.#holder
    const by = this.#user
    if (holder === undefined) {
      throw new FdbError(
        'ERR_FDB_NOT_A_DAEMON',
        `process ${process.pid} holds no descriptors for other processes: connect to a daemon (fd-broker serve)`,
      )
    }
    switch (op) {
      case Op.LIST:
        return { json: JSON.stringify(holder.list()) }
      case Op.WATCH:
        this.#watch(request, holder)
        return { json: JSON.stringify(holder.list()) }
      case Op.UNWATCH:
        this.#watches.get(request)?.()
        this.#watches.delete(request)
        return {}
      case Op.PUT: {
        checkDescriptorName(name ?? '')
        const [fd, lifetime = null] = fds.splice(0, 2)
        if (fd === undefined)
          throw new FdbError('ERR_FDB_FDS_MISSING', `the request to hold "${name}" came without a descriptor`)
        const ms = leaseMs && leaseMs > 0 ? leaseMs : null
        holder.put({ name: name ?? '', fd, lifetime, ms, replace: replace ?? false, by })
        return {}
      }
      case Op.CLAIM: {
        const claimant = fds.shift() ?? null
        const { fd, others } = holder.claim({ name: name ?? '', by, shared: shared ?? false, claimant })
        if (claimant === null && !shared) this.#claimed = true
        return { json: JSON.stringify({ others }), sent: [fd] }
      }
      case Op.RELEASE:
        holder.release(name ?? '', by, fds[0] ?? null)
        return {}
      case Op.REMOVE:
        holder.remove(name ?? '', by)
        return {}
      default:
        throw new FdbError('ERR_FDB_MESSAGE', `this release does not know the descriptor request ${op}`)
    }
  }

  /** Sends the list after each change, with one list in flight at a time: a slow reader gets only the latest one. */
  #watch(request: number, holder: DescriptorHolder): void {
    this.#watches.get(request)?.()
    let sending = false
    let stale = false
    const notify = () => {
      stale = true
      if (sending || !this.#watches.has(request)) return
      sending = true
      // One list covers all changes of a turn.
      setImmediate(() => {
        stale = false
        this.#link
          .send(listReply(request, holder))
          .then(() => {
            sending = false
            if (stale) notify()
          })
          .catch(() => {})
      })
    }
    this.#watches.set(request, holder.watch(notify))
  }
}

/** Returns the list, or an error if the operator has lost the right to see it. */
function listReply(request: number, holder: DescriptorHolder): WireBody {
  try {
    return { descriptorReply: { request, ok: true, json: JSON.stringify(holder.list()) } }
  } catch (error) {
    return failedReply(request, error)
  }
}

function failedReply(request: number, error: unknown): WireBody {
  const { code, message, retryable } = FdbError.from(error)
  return { descriptorReply: { request, ok: false, code, message, retryable } }
}
