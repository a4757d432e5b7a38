import { type Checks, checkOptions, hook, unchecked } from '../base/check-option.js'
import { FdbError } from '../errors.js'
import { closeAll, type OwnedFd } from '../kernel/index.js'
import { pidOf } from '../os/liveness.js'
import type { Release } from '../os/release-link.js'
import { fdbroker } from '../proto/wire.js'
import { Channel } from '../wire/channel.js'
import { Link, peerLeft, remoteError, VERSIONS, type WireBody, type WireEnvelope } from '../wire/link.js'
import { deadlineError, Pending } from '../wire/pending.js'
import { HeldDescriptors } from './descriptors.js'
import {
  ANSWER_MS,
  ASK,
  type AskLimits,
  type AskOptions,
  COMMAND_MS,
  checkCommandSize,
  limitOf,
  type ReadAnswer,
  readCommandReply,
  readProgress,
  readUpgraded,
  type Upgraded,
  type UpgradeProgress,
} from './requests.js'
import { ServiceState } from './service-state.js'
import type { StatusAnswer } from './status-report.js'

/** A server ends an upgrade at the limit it was given; this much later its word must be here. */
const RESULT_GRACE_MS = 5_000
/** An upgrade without a limit of its own. */
const UPGRADE_MS = 60_000
/** For the answer of an upgrade that was cancelled: its successor is ended first; when the Commit had left, the handoff decides. */
const CANCELLED_MS = 30_000

export interface UpgradeAsk {
  /** The successor's command line, with argv0. Empty or absent: as the running process was started. */
  argv?: readonly string[]
  /** Which service of a daemon that holds several. */
  service?: string
  /** Until the new version serves, milliseconds. Default 60000. */
  timeout?: number
  /** @internal The name of `timeout` before 0.5. */
  timeoutMs?: number
  /**
   * First end (SIGKILL) those that block the upgrade: given descriptors once, and neither gone nor proved dead. `status`
   * names them (`blockedBy`). ERR_FDB_STUCK when one does not end.
   */
  killStuck?: boolean
  /** @internal The link that a supervisor is to lead to a release. */
  release?: Release | undefined
  /** Each phase when it is entered. */
  progress?: (step: UpgradeProgress) => void
  /** Cancels it: before Commit the successor is ended. The outcome says which. */
  signal?: AbortSignal
}

export interface CommandAsk extends AskOptions {
  /** Which service of a daemon that holds several. */
  service?: string
}

const COMMAND: Checks<CommandAsk> = { ...ASK, service: unchecked }
const UPGRADE: Checks<UpgradeAsk> = {
  ...COMMAND,
  argv: unchecked,
  killStuck: unchecked,
  progress: hook(),
  release: unchecked,
}

const REFUSED = { code: 'ERR_FDB_REJECTED', message: 'the process at the control socket refused' } as const

interface PendingAnswer {
  /** Whether the message was for it. */
  accept(envelope: WireEnvelope, fds: OwnedFd[]): boolean
  reject(error: FdbError): void
}

/** An operator's connection to the process that holds a control socket. Owns its link; leaving undoes nothing. */
export class OperatorClient implements Disposable {
  readonly #control: string
  readonly #link: Link
  readonly #waiting = new Set<PendingAnswer>()
  #commands = 0
  /** The pid by the kernel's word at connect, then by the process's own. */
  #pid: number
  #failure: FdbError | null = null
  #end: FdbError | null | undefined
  #descriptors: HeldDescriptors | undefined
  #state: ServiceState | undefined

  /**
   * Connects and says Hello; a refusal is told by the first question.
   * Rejects with ERR_FDB_NO_HOLDER, ERR_FDB_PATH_TOO_LONG, ERR_FDB_CONTROL_PATH, ERR_FDB_DENIED, ERR_FDB_DEADLINE.
   */
  static async connect(control: string, options: AskOptions = {}): Promise<OperatorClient> {
    checkOptions('OperatorClient.connect()', options, ASK)
    const limits = { timeoutMs: limitOf(options, ANSWER_MS), signal: options.signal }
    return new OperatorClient(control, await Channel.connect(control, limits))
  }

  private constructor(control: string, channel: Channel) {
    this.#control = control
    this.#pid = channel.listeningPid()
    this.#link = new Link(channel)
    this.#link.start({
      message: (envelope, fds) => {
        if (envelope.welcome) this.#setPid(fds[0] === undefined ? envelope.welcome.pid : pidOf(fds[0]))
        if (envelope.reject) this.#fail(remoteError(envelope.reject, REFUSED))
        else for (const waiting of this.#waiting) if (waiting.accept(envelope, fds)) break
        closeAll(fds)
      },
      broken: error => this.#fail(error),
      end: error => {
        this.#end = error
        for (const waiting of [...this.#waiting]) waiting.reject(this.#endError())
      },
    })
    this.#link.post({
      hello: {
        versionMin: VERSIONS.min,
        versionMax: VERSIONS.max,
        intent: fdbroker.wire.Intent.OPERATE,
        pid: process.pid,
      },
    })
  }

  /**
   * The pid of the process that listens at the control socket, or has answered; 0: it cannot be named (it lives in another PID
   * namespace).
   */
  get peerPid(): number {
    return this.#pid
  }

  /** @internal It is in a PID namespace that is not seen from here: what it calls a process by is another's number here. */
  get inOtherPidNamespace(): boolean {
    return this.#link.channel.peer.pid === 0
  }

  /** A pid that it reports itself counts only if the kernel gives pids of the same namespace. */
  #setPid(pid: number | null | undefined): void {
    if (pid && !this.inOtherPidNamespace) this.#pid = pid
  }

  /**
   * Rejects with what the holder refuses with (ERR_FDB_DENIED, ERR_FDB_VERSION …), ERR_FDB_NOT_FD_BROKER,
   * ERR_FDB_DEADLINE (it says nothing), ERR_FDB_CHANNEL_CLOSED (it left).
   */
  async status(options: AskOptions = {}): Promise<StatusAnswer> {
    checkOptions('status()', options, ASK)
    const what = `the status of ${this.#peer}`
    const limits = { what, timeoutMs: limitOf(options, ANSWER_MS), signal: options.signal }
    const json = await this.#ask({ statusRequest: {} }, limits, ({ status, result }) => {
      if (result) readUpgraded(result)
      return status ? { answer: status.json ?? '' } : null
    })
    const answer = parseStatus(json)
    this.#setPid(answer.pid)
    return answer
  }

  /**
   * Has the server start its successor, and waits until that one serves. Rejects as {@link status} does, and with
   * what the server says: ERR_FDB_NO_BINARY, ERR_FDB_SPAWN, ERR_FDB_SUCCESSOR_EXITED, ERR_FDB_BUSY …
   * ERR_FDB_CHANNEL_CLOSED and ERR_FDB_DEADLINE leave open what became of it: ask for the status.
   *
   * When `signal` aborts the server is told to give it up. It then rejects with ERR_FDB_ABORTED, and the server that there
   * is serves on; or the Commit had left, and it resolves or rejects as ever.
   */
  async upgrade(ask: UpgradeAsk): Promise<Upgraded> {
    checkOptions('upgrade()', ask, UPGRADE)
    const { argv = [], service = '', killStuck = false, progress, release, signal } = ask
    const timeoutMs = limitOf(ask, UPGRADE_MS)
    const what = `the result of the upgrade of ${this.#peer}`
    signal?.throwIfAborted()
    const unanswered = new AbortController()
    const limits = { what, timeoutMs: timeoutMs + RESULT_GRACE_MS, signal: unanswered.signal }
    let timer: NodeJS.Timeout | undefined
    const cancel = () => {
      this.#link.post({ cancelUpgrade: {} })
      const late = deadlineError(`${what} that was cancelled`, CANCELLED_MS)
      timer = setTimeout(() => unanswered.abort(late), CANCELLED_MS)
    }
    signal?.addEventListener('abort', cancel, { once: true })
    const body: WireBody = {
      upgradeRequest: {
        argv: [...argv],
        timeoutMs,
        service,
        killStuck,
        ...(release && { at: release.at, release: release.to }),
      },
    }
    const outcome = this.#ask(body, limits, envelope => {
      if (envelope.progress) {
        progress?.(readProgress(envelope.progress))
        return 'part'
      }
      return envelope.result ? { answer: readUpgraded(envelope.result) } : null
    })
    return await outcome.finally(() => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', cancel)
    })
  }

  /**
   * Asks the application that serves, by a name that it gave to `Member.command()`. At most 15 MiB each way. Rejects as
   * {@link status} does, with what the application says, with ERR_FDB_COMMAND_UNKNOWN, ERR_FDB_COMMAND_SIZE, and with
   * ERR_FDB_FENCED or ERR_FDB_BUSY (both `retryable`, nothing was done) where another serves by now: connect again.
   * ERR_FDB_CHANNEL_CLOSED and ERR_FDB_DEADLINE leave open whether it was done.
   */
  async command(name: string, body: Uint8Array | string, ask: CommandAsk = {}): Promise<Buffer> {
    checkOptions('command()', ask, COMMAND)
    const { service = '', signal } = ask
    const bytes = typeof body === 'string' ? Buffer.from(body) : body
    checkCommandSize(`the body of the command "${name}"`, bytes.length)
    const request = ++this.#commands
    const what = `the reply of ${this.#peer} to the command "${name}"`
    const command: WireBody = { command: { name, body: bytes, service, request } }
    const limits = { what, timeoutMs: limitOf(ask, COMMAND_MS), signal }
    return await this.#ask(command, limits, ({ commandReply: reply }) =>
      reply?.request === request ? { answer: readCommandReply(reply) } : null,
    )
  }

  /** The descriptors that a daemon holds for other processes. */
  get descriptors(): HeldDescriptors {
    this.#descriptors ??= new HeldDescriptors((body, { what, ...limits }, read, sent) =>
      this.#ask(body, { what: `${what} of ${this.#peer}`, ...limits }, read, sent),
    )
    return this.#descriptors
  }

  /** The state of the process that serves. */
  get state(): ServiceState {
    this.#state ??= new ServiceState((name, body, ask) => this.command(name, body, ask))
    return this.#state
  }

  /** Idempotent. */
  close(): void {
    this.#link.close()
    this.#end ??= null
    for (const waiting of [...this.#waiting]) waiting.reject(this.#endError())
  }

  [Symbol.dispose](): void {
    this.close()
  }

  get #peer(): string {
    return this.peerPid === 0
      ? `the process at ${this.#control}`
      : `process ${this.peerPid} at ${this.#control}`
  }

  #ask<T>(body: WireBody, limits: AskLimits, read: ReadAnswer<T>, sent?: readonly OwnedFd[]): Promise<T> {
    const { what, timeoutMs, signal } = limits
    const waiting: PendingAnswer = {
      accept: (envelope, fds) => {
        try {
          const got = read(envelope, fds)
          if (got !== null && got !== 'part') pending.resolve(got.answer)
          return got !== null
        } catch (error) {
          return pending.reject(error)
        }
      },
      reject: error => pending.reject(error),
    }
    const pending = new Pending<T>({ signal, onSettled: () => this.#waiting.delete(waiting) })
    if (this.#failure !== null || this.#end !== undefined) pending.reject(this.#endError())
    if (pending.settled) return pending.answer
    this.#waiting.add(waiting)
    // A failed send is no news: what the peer said before it left is still read, then its end is told.
    if (sent === undefined) this.#link.post(body)
    else this.#send(body, sent, error => pending.reject(error))
    if (timeoutMs === null) return pending.answer
    return pending.limit(timeoutMs, () => pending.reject(deadlineError(what, timeoutMs))).answer
  }

  #send(body: WireBody, borrowed: readonly OwnedFd[], failed: (error: unknown) => void): void {
    const fds = borrowed.map(fd => fd.dup())
    this.#link
      .send(body, fds)
      // Earlier messages of the peer are still read, then its end is told.
      .catch(error => this.#link.open && failed(error))
      .finally(() => closeAll(fds))
  }

  #fail(error: FdbError): void {
    this.#failure ??= error
    for (const waiting of [...this.#waiting]) waiting.reject(this.#failure)
    this.#link.close()
  }

  #endError(): FdbError {
    if (this.#failure !== null) return this.#failure
    const end = this.#end ?? null
    if (end !== null && !peerLeft(end)) return end
    return new FdbError(
      'ERR_FDB_CHANNEL_CLOSED',
      `${this.#peer} closed the connection, or died, before it had answered: ask for the status to see who serves`,
      { cause: end ?? undefined, retryable: true },
    )
  }
}

function parseStatus(json: string): StatusAnswer {
  try {
    const answer: unknown = JSON.parse(json)
    if (typeof answer === 'object' && answer !== null) return answer
  } catch {
    // The error follows below.
  }
  throw new FdbError(
    'ERR_FDB_MESSAGE',
    `the status is no JSON object (${json.length} characters): the other side is not a release of fd-broker that this one understands`,
  )
}

/** The status at a control socket, over a connection of its own. Rejects as {@link OperatorClient.connect} and {@link OperatorClient.status} do. */
export async function statusAt(control: string, timeout: number): Promise<StatusAnswer> {
  using client = await OperatorClient.connect(control, { timeout })
  return await client.status({ timeout })
}
