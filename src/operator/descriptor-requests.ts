import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'
import { fdbroker } from '../proto/wire.js'
import type { Link, WireBody } from '../wire/link.js'
import { checkDescriptorName, type DescriptorHolder, type DescriptorUser } from './held-descriptors.js'

type Request = fdbroker.wire.DescriptorRequest.$Properties
const { Op } = fdbroker.wire.DescriptorRequest

/** The answer; the descriptors are closed when it has been sent. */
export interface DescriptorAnswer {
  readonly body: WireBody
  readonly fds: readonly OwnedFd[]
}

/** The requests of one operator about descriptors, until it leaves. */
export class DescriptorRequests {
  readonly #link: Link
  readonly #holder: DescriptorHolder | undefined
  readonly #user: DescriptorUser
  /** By the number of the request. */
  readonly #watches = new Map<number, () => void>()
  #claimed = false

  /** `holder` undefined: descriptors are not held here. */
  constructor(link: Link, holder: DescriptorHolder | undefined) {
    this.#link = link
    this.#holder = holder
    const { pid, uid } = link.channel.peer
    this.#user = { pid, uid }
  }

  /** The connection is needed while nothing is asked: for a watch, or a claim that ends with it. */
  get lasting(): boolean {
    return this.#watches.size > 0 || this.#claimed
  }

  /** Takes of the descriptors what it wants. Never throws. */
  answer(asked: Request, fds: OwnedFd[]): DescriptorAnswer {
    const request = asked.request ?? 0
    try {
      const { json = '', sent = [] } = this.#carryOut(request, asked, fds)
      return { body: { descriptorReply: { request, ok: true, json } }, fds: sent }
    } catch (error) {
      return { body: failedReply(request, error), fds: [] }
    }
  }

  /** The operator has left. */
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
        `process ${process.pid} holds no descriptors for others: ask a daemon (fd-broker serve)`,
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
          throw new FdbError('ERR_FDB_FDS_MISSING', `no descriptor came with the order to hold "${name}"`)
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
        throw new FdbError('ERR_FDB_MESSAGE', `a request about descriptors that is not known here (${op})`)
    }
  }

  /** One list is on its way at a time: who reads slowly is told how it stands then. */
  #watch(request: number, holder: DescriptorHolder): void {
    this.#watches.get(request)?.()
    let sending = false
    let stale = false
    const tell = () => {
      stale = true
      if (sending || !this.#watches.has(request)) return
      sending = true
      // Changes of one turn are told together.
      setImmediate(() => {
        stale = false
        this.#link
          .send(listReply(request, holder))
          .then(() => {
            sending = false
            if (stale) tell()
          })
          .catch(() => {})
      })
    }
    this.#watches.set(request, holder.watch(tell))
  }
}

/** The operator may lose the right to see it. */
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
