import { afterReading, type Limit } from '../base/after-reading.js'
import { FdbError } from '../errors.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import { fdbroker } from '../proto/wire.js'
import { type Link, remoteError, type WireBody, type WireEnvelope } from '../wire/link.js'
import {
  checkDescriptorName,
  checkNameLength,
  type DescriptorHolder,
  type DescriptorUser,
} from './held-descriptors.js'
import {
  type CommandContext,
  checkCommandSize,
  commandAnswer,
  failedAnswer,
  failedCommandAnswer,
  failureOf,
  type Operations,
  readCommand,
  readUpgrade,
  upgradedAnswer,
} from './requests.js'
import { STOP } from './service-commands.js'

/** Maximum number of unanswered requests of one operator. While there are so many, no further request is read. */
const MOST_AT_ONCE = 16

const CANCELLED = { code: 'ERR_FDB_ABORTED', message: 'the upgrade was cancelled by its operator' } as const

interface UnansweredCommand {
  readonly request: number
  readonly cancel: AbortController
}

interface UnansweredUpgrade {
  readonly cancel: AbortController
  /** Whether progress was reported: the successor was started. */
  begun: boolean
}

/** Executes the requests of a connection to an operator, or to a daemon that forwards an operator's requests. Returns the answers. */
export class RequestHandler {
  readonly #operations: Operations
  readonly #notify: (body: WireBody) => void
  readonly #by: CommandContext['by']
  readonly #heard: (() => Promise<void>) | undefined
  /** Why the peer has disconnected, or null while it is connected. */
  #left: FdbError | null = null
  /** The upgrades that wait or run. */
  readonly #upgrades = new Set<UnansweredUpgrade>()
  /** The commands that wait or run. */
  readonly #commands = new Set<UnansweredCommand>()

  /**
   * `notify` sends a message before the answer, such as Progress. `heard` resolves when the messages that have arrived behind a request are
   * read, one of which may cancel it, and rejects if the peer has left; absent if the caller checks that.
   */
  constructor(
    operations: Operations,
    notify: (body: WireBody) => void,
    { by, heard }: { by?: CommandContext['by']; heard?: () => Promise<void> } = {},
  ) {
    this.#by = by
    this.#operations = operations
    this.#notify = notify
    this.#heard = heard
  }

  /** Executes a request. Resolves with the answer and never rejects. Returns null if the message is not a request. */
  answer({ statusRequest, upgradeRequest, command }: WireEnvelope): Promise<WireBody> | null {
    if (statusRequest) return this.#status()
    if (upgradeRequest) return this.#upgrade(upgradeRequest)
    return command ? this.#command(command) : null
  }

  cancelUpgrades(reason: FdbError): void {
    for (const { cancel } of this.#upgrades) cancel.abort(reason)
  }

  /** Aborts the signal of a command; one that has not begun is dropped. */
  cancelCommand(request: number, reason: FdbError): void {
    for (const command of this.#commands) if (command.request === request) command.cancel.abort(reason)
  }

  /**
   * Called when the peer has disconnected: aborts the signal of running commands, and cancels upgrades of which no successor was started yet.
   * Other upgrades continue. Idempotent.
   */
  close(reason: string): void {
    const error = new FdbError('ERR_FDB_ABORTED', reason)
    this.#left ??= error
    for (const { cancel } of this.#commands) cancel.abort(error)
    for (const { cancel, begun } of this.#upgrades) if (!begun) cancel.abort(error)
  }

  async #status(): Promise<WireBody> {
    try {
      const json = JSON.stringify(await this.#operations.status())
      checkCommandSize('the status', Buffer.byteLength(json))
      return { status: { json } }
    } catch (error) {
      return failedAnswer(0, error)
    }
  }

  async #upgrade(asked: fdbroker.wire.UpgradeRequest.$Properties): Promise<WireBody> {
    const request = asked.request ?? 0
    const upgrade: UnansweredUpgrade = { cancel: new AbortController(), begun: false }
    const progress = (step: fdbroker.wire.Progress.$Properties) => {
      upgrade.begun = true
      this.#notify({ progress: step })
    }
    const run = async (signal: AbortSignal) =>
      upgradedAnswer(request, await this.#operations.upgrade(readUpgrade(asked), progress, signal, this.#by))
    return await this.#run(this.#upgrades, upgrade, run).catch(error => failedAnswer(request, error))
  }

  async #command(asked: fdbroker.wire.Command.$Properties): Promise<WireBody> {
    const request = asked.request ?? 0
    const by = this.#by
    const run = async (signal: AbortSignal) => {
      const context = { signal, ...(by && { by }) }
      return commandAnswer(request, await this.#operations.command(readCommand(asked), context))
    }
    const command = { request, cancel: new AbortController() }
    return await this.#run(this.#commands, command, run).catch(error => failedCommandAnswer(request, error))
  }

  /** Runs a request, which is in `all` meanwhile, unless it is cancelled first. */
  async #run<R extends { readonly cancel: AbortController }>(
    all: Set<R>,
    request: R,
    run: (signal: AbortSignal) => Promise<WireBody>,
  ): Promise<WireBody> {
    const { cancel } = request
    all.add(request)
    if (this.#left !== null) cancel.abort(this.#left)
    try {
      if (this.#heard !== undefined) await this.#heard()
      cancel.signal.throwIfAborted()
      return await run(cancel.signal)
    } finally {
      all.delete(request)
    }
  }
}

interface ServeOperatorOptions {
  /** Default: no limit. */
  readonly idleMs?: number | null
  readonly ended?: () => void
}

/**
 * Serves an operator's tool until it disconnects. A request that has begun continues after that: only an explicit
 * message cancels it. One that has not begun is dropped. Stops reading
 * from a tool that sends requests faster than it reads the answers. Disconnects an idle tool after `idleMs`: one that sends nothing, waits
 * for no answer, watches nothing and has no claim that ends with the connection. Returns a function that disconnects the tool when the
 * kernel has accepted the answers to its requests, unless the tool has ordered the end; `ended` is called when it has disconnected.
 */
export function serveOperator(
  link: Link,
  operations: Operations,
  { idleMs = null, ended = () => {} }: ServeOperatorOptions = {},
): () => void {
  const requests = new RequestHandler(operations, body => link.post(body), { by: link.channel.peer })
  const descriptors = new DescriptorRequests(link, operations.descriptors)
  let pending = 0
  let isEnding = false
  /** The tool may ask why the process, which it has told to end, still lives. */
  let hasOrderedEnd = false
  let idle: Limit | undefined
  const restartIdle = () => {
    idle?.clear()
    if (idleMs !== null && link.open) idle = afterReading(idleMs, onIdle, { unref: true })
  }
  const onIdle = () => {
    if (pending > 0 || descriptors.lasting) return restartIdle()
    link.close()
    onEnd()
  }
  const onEnd = () => {
    idle?.clear()
    requests.close('the operator has disconnected')
    descriptors.close()
    ended()
  }
  const closeAnswered = () => {
    if (!isEnding || hasOrderedEnd || pending > 0 || !link.open) return
    link.close()
    onEnd()
  }
  const send = (answer: Promise<DescriptorAnswer>) => {
    if (++pending === MOST_AT_ONCE) link.channel.pause()
    // A request counts until the kernel has accepted its answer.
    answer
      .then(({ body, fds }) => link.send(body, fds).finally(() => closeAll(fds)))
      // The operator has gone. A refused request has its error in `body`.
      .catch(() => {})
      .finally(() => {
        if (pending-- === MOST_AT_ONCE && link.open) link.channel.resume()
        restartIdle()
        closeAnswered()
      })
  }
  restartIdle()
  link.start({
    message: (envelope, fds) => {
      restartIdle()
      const { cancelUpgrade, command, descriptorRequest } = envelope
      hasOrderedEnd ||= command?.name === STOP
      if (descriptorRequest) send(Promise.resolve(descriptors.answer(descriptorRequest, fds)))
      closeAll(fds)
      if (cancelUpgrade) requests.cancelUpgrades(remoteError(cancelUpgrade, CANCELLED))
      // The sender of a request has given up if it has closed the connection: the order must not take effect without its knowledge.
      const answer = link.channel.isHungUp ? null : requests.answer(envelope)
      if (answer !== null) send(answer.then(body => ({ body, fds: [] })))
    },
    broken: () => {
      link.close()
      onEnd()
    },
    end: onEnd,
  })
  return () => {
    isEnding = true
    closeAnswered()
  }
}

type Request = fdbroker.wire.DescriptorRequest.$Properties
const { Op } = fdbroker.wire.DescriptorRequest

/** An answer and its descriptors, which `serveOperator()` closes after sending. */
interface DescriptorAnswer {
  readonly body: WireBody
  readonly fds: readonly OwnedFd[]
}

/** Executes the descriptor requests of one operator. */
class DescriptorRequests {
  readonly #link: Link
  readonly #holder: DescriptorHolder | undefined
  readonly #user: DescriptorUser
  /** Functions that end a watch, by number of the request that started it. */
  readonly #watches = new Map<number, () => void>()

  /** Without a `holder`, in a process that is not a daemon, all requests fail. */
  constructor(link: Link, holder: DescriptorHolder | undefined) {
    this.#link = link
    this.#holder = holder
    const { pid, uid } = link.channel.peer
    this.#user = { pid, uid }
  }

  /** Whether the connection must stay open although it is idle: it has a watch, or a claim that ends with it. */
  get lasting(): boolean {
    return this.#watches.size > 0 || (this.#holder?.hasClaim(this.#user) ?? false)
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
    checkNameLength(name ?? '')
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

  /** Sends the list after changes. While the kernel has not accepted a list, sends no other: a slow reader gets only the latest one. */
  #watch(request: number, holder: DescriptorHolder): void {
    this.#watches.get(request)?.()
    let sending = false
    let stale = false
    const notify = () => {
      stale = true
      if (sending || !this.#watches.has(request)) return
      sending = true
      // The list is sent once for all changes in a turn of the event loop.
      setImmediate(() => {
        stale = false
        this.#link
          .send(listReply(request, holder))
          .then(() => {
            sending = false
            if (stale) notify()
          })
          // The operator has gone, and its watches with it.
          .catch(() => {})
      })
    }
    this.#watches.set(request, holder.watch(notify))
  }
}

/** Returns the list of descriptors, or the holder's error if the operator may not see them any more. */
function listReply(request: number, holder: DescriptorHolder): WireBody {
  try {
    return { descriptorReply: { request, ok: true, json: JSON.stringify(holder.list()) } }
  } catch (error) {
    return failedReply(request, error)
  }
}

function failedReply(request: number, error: unknown): WireBody {
  return { descriptorReply: { request, ...failureOf(error) } }
}
