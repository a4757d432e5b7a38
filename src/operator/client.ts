import { types } from 'node:util'
import { jsonObject } from '../base/json.js'
import { checkOptions, hook } from '../checks/options.js'
import { wrongOption } from '../checks/place.js'
import { absent, map, optional, type ShapeOf } from '../checks/shape.js'
import { commandLine, predicate, unchecked } from '../checks/values.js'
import { FdbError } from '../errors.js'
import { closeAll, type OwnedFd, pidOfPidfd } from '../kernel/index.js'
import { pidSeenHere } from '../os/pid-namespace.js'
import type { Release } from '../os/release-link.js'
import { Channel } from '../wire/channel.js'
import { helloFor, readWelcome, type Welcomed } from '../wire/greeting.js'
import { Link, peerLeft, type WireBody, type WireEnvelope } from '../wire/link.js'
import { deadlineError, Pending } from '../wire/pending.js'
import { HeldDescriptors } from './descriptors.js'
import {
  ANSWER_MS,
  ASK,
  type AskExtras,
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

/** Added to the time limit of an upgrade, which the server enforces itself: its answer arrives a little later. */
const RESULT_GRACE_MS = 5_000
/** Default time limit of an upgrade. */
const UPGRADE_MS = 60_000
/** Time limit for the answer after a cancellation: before it the server ends the successor or, after the Commit, completes the handoff. */
const CANCELLED_MS = 30_000

export interface UpgradeAsk {
  /** The successor's command line, with argv0. Default: the command line of the running process. */
  argv?: readonly string[] | undefined
  /** Name of the service, for a daemon that holds several. */
  service?: string | undefined
  /** Time limit until the new version serves, in milliseconds; at least 1. Default 60000. */
  timeout?: number | undefined
  /** @internal The name of `timeout` before 0.5. */
  timeoutMs?: number | undefined
  /**
   * First kills (SIGKILL) the processes that block the upgrade. `status` lists them in `blockedBy`: they got descriptors, and the server
   * does not know whether they have released them. Rejects with ERR_FDB_STUCK if one does not end.
   */
  killStuck?: boolean | undefined
  /**
   * Under `fd-broker/auto`: the addresses of the running version that the next one deliberately gives up. Without them it must listen on all
   * of them before it serves. Rejects with ERR_FDB_OPTION if the running version does not listen at one of them.
   */
  without?: readonly string[] | undefined
  /** @internal For a supervisor: the release to which it must set the release link. */
  release?: Release | undefined
  /** Called when the handoff enters a phase. */
  progress?: ((step: UpgradeProgress) => void) | undefined
  /** An abort cancels the upgrade; before the Commit this ends the successor. The result of `upgrade()` shows whether it was cancelled. */
  signal?: AbortSignal | undefined
}

export interface CommandAsk extends AskOptions {
  /** Name of the service, for a daemon that holds several. */
  service?: string | undefined
}

const CONNECT = map(ASK)
const COMMAND = map({ ...ASK, service: optional(unchecked<string>(), '') } satisfies ShapeOf<CommandAsk>)
const UPGRADE = map({
  ...ASK,
  service: optional(unchecked<string>(), ''),
  argv: absent(commandLine),
  killStuck: optional(unchecked<boolean>(), false),
  progress: absent(hook<(step: UpgradeProgress) => void>()),
  release: absent(unchecked<Release>()),
  without: optional(
    predicate<readonly string[]>(
      'a list of addresses',
      value => Array.isArray(value) && value.every(text => typeof text === 'string' && text !== ''),
    ),
    [],
  ),
} satisfies ShapeOf<UpgradeAsk>)

const REFUSED = {
  code: 'ERR_FDB_REJECTED',
  message: 'the process at the control socket refused the connection',
} as const

interface PendingAnswer {
  /** Handles a message from the process. Returns whether the message belongs to this request. */
  accept(envelope: WireEnvelope, fds: OwnedFd[]): boolean
  reject(error: FdbError): void
}

/** An operator's connection to the process that listens at a control socket. Closing the connection does not undo requests. */
export class OperatorClient implements Disposable {
  readonly #control: string
  readonly #link: Link
  readonly #pendingAnswers = new Set<PendingAnswer>()
  #commands = 0
  #isUnref = false
  /** The pid from the kernel when the connection was made; later the pid that the process itself reported. */
  #pid: number
  /** The pid here of the process that answers; 0 if it is in a PID namespace that this process cannot see. */
  #answering: number
  /** Why the connection has ended, or null while it is open. */
  #failure: FdbError | null = null
  #descriptors: HeldDescriptors | undefined
  #state: ServiceState | undefined

  /**
   * Connects and sends a Hello. If the process refuses it, the first request rejects.
   * Rejects with ERR_FDB_NO_HOLDER, ERR_FDB_PATH_TOO_LONG, ERR_FDB_CONTROL_PATH, ERR_FDB_DENIED, ERR_FDB_DEADLINE.
   */
  static async connect(control: string, options: AskOptions = {}): Promise<OperatorClient> {
    if (typeof control !== 'string') throw wrongOption('control', control, 'the path of a control socket')
    checkOptions('OperatorClient.connect()', options, CONNECT)
    const limits = { timeoutMs: limitOf(options, ANSWER_MS), signal: options.signal }
    return new OperatorClient(control, await Channel.connect(control, limits))
  }

  private constructor(control: string, channel: Channel) {
    this.#control = control
    this.#pid = channel.listeningPid()
    this.#answering = channel.peer.pid
    this.#link = new Link(channel)
    this.#link.start({
      message: (envelope, fds) => {
        const answer = readWelcome(envelope, fds, REFUSED)
        if (FdbError.is(answer)) this.#fail(answer)
        else if (answer !== null) this.#welcomed(answer)
        else for (const waiting of this.#pendingAnswers) if (waiting.accept(envelope, fds)) break
        closeAll(fds)
      },
      broken: error => this.#fail(error),
      end: error => this.#fail(this.#endError(error)),
    })
    this.#link.post(helloFor('operate'))
  }

  /**
   * The pid of the process that listens at the control socket, or of the one that has answered. 0 if the process is in another PID
   * namespace.
   */
  get peerPid(): number {
    return this.#pid
  }

  /** @internal Whether this process cannot see the other one, which is in another PID namespace: the pids that it reports mean nothing here. */
  get inOtherPidNamespace(): boolean {
    return this.#answering === 0
  }

  /** @internal Returns the pid here of a process that the answers name; null if this process cannot see it. */
  pidHere(reported: number): number | null {
    return this.#answering === 0 ? null : pidSeenHere(reported, this.#answering)
  }

  /** The kernel knows the answering process by its pidfd; before the Welcome, and without one, the process that has called listen(). */
  #welcomed({ welcome, pidfd }: Welcomed): void {
    const pid = pidfd === null ? -1 : pidFrom(pidfd)
    pidfd?.close()
    if (pid >= 0) this.#answering = pid
    this.#setPid(welcome.pid)
  }

  #setPid(reported: number | null | undefined): void {
    if (reported) this.#pid = this.pidHere(reported) ?? 0
  }

  /**
   * Requests the status. Rejects with the error that the process reports (ERR_FDB_DENIED, ERR_FDB_VERSION …), ERR_FDB_NOT_FD_BROKER,
   * ERR_FDB_DEADLINE (no answer), or ERR_FDB_CHANNEL_CLOSED (the process closed the connection).
   */
  async status(options: AskOptions = {}): Promise<StatusAnswer> {
    checkOptions('status()', options, CONNECT)
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
   * Tells the server to start its successor; resolves when the successor serves. Rejects as {@link status} does, and with
   * the server's error: ERR_FDB_NO_BINARY, ERR_FDB_SPAWN, ERR_FDB_SUCCESSOR_EXITED, ERR_FDB_BUSY …
   * After ERR_FDB_CHANNEL_CLOSED or ERR_FDB_DEADLINE the outcome is unknown: request the status.
   *
   * If `signal` aborts, asks the server to cancel the upgrade. Then rejects with ERR_FDB_ABORTED, and the old version keeps serving. If the
   * server has sent the Commit already, the upgrade continues, and its result is returned.
   */
  async upgrade(ask: UpgradeAsk): Promise<Upgraded> {
    const given = checkOptions('upgrade()', ask, UPGRADE)
    const { argv, service, killStuck, without, progress, release, signal } = given
    const timeoutMs = limitOf(ask, UPGRADE_MS)
    const what = `the result of the upgrade of ${this.#peer}`
    signal?.throwIfAborted()
    const unanswered = new AbortController()
    const limits = { what, timeoutMs: timeoutMs + RESULT_GRACE_MS, signal: unanswered.signal }
    let timer: NodeJS.Timeout | undefined
    const cancel = () => {
      this.#link.post({ cancelUpgrade: {} })
      const timeoutError = deadlineError(`${what} that was cancelled`, CANCELLED_MS)
      timer = setTimeout(() => unanswered.abort(timeoutError), CANCELLED_MS)
    }
    signal?.addEventListener('abort', cancel, { once: true })
    const body: WireBody = {
      upgradeRequest: {
        argv: [...(argv ?? [])],
        timeoutMs,
        service,
        killStuck,
        without: [...without],
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
   * Sends a command to the serving application, by a name that the application passed to `Member.command()`. Body and reply have at most 15
   * MiB. Rejects as {@link status} does, with the application's error, and with ERR_FDB_COMMAND_UNKNOWN or ERR_FDB_COMMAND_SIZE. Rejects
   * with ERR_FDB_FENCED or ERR_FDB_BUSY (both `retryable`) if another process serves now: the command was not executed, connect again.
   * After ERR_FDB_CHANNEL_CLOSED or ERR_FDB_DEADLINE it is unknown whether the command was executed.
   */
  async command(name: string, body: Uint8Array | string, ask: CommandAsk = {}): Promise<Buffer> {
    const { service, signal } = checkOptions('command()', ask, COMMAND)
    const bytes = typeof body === 'string' ? Buffer.from(body) : body
    if (!types.isUint8Array(bytes)) throw wrongOption('body', body, 'bytes or a text')
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
    this.#descriptors ??= new HeldDescriptors((body, { what, ...limits }, read, extras) =>
      this.#ask(body, { what: `${what} of ${this.#peer}`, ...limits }, read, extras),
    )
    return this.#descriptors
  }

  /** The state of the process that serves. */
  get state(): ServiceState {
    this.#state ??= new ServiceState((name, body, ask) => this.command(name, body, ask))
    return this.#state
  }

  /** @internal From now on no request keeps the process alive. */
  unref(): void {
    this.#isUnref = true
    this.#link.channel.unref()
  }

  /** Idempotent. */
  close(): void {
    this.#fail(this.#endError(null))
  }

  [Symbol.dispose](): void {
    this.close()
  }

  get #peer(): string {
    return this.peerPid === 0
      ? `the process at ${this.#control}`
      : `process ${this.peerPid} at ${this.#control}`
  }

  #ask<T>(
    body: WireBody,
    limits: AskLimits,
    read: ReadAnswer<T>,
    { late, sent }: AskExtras<T> = {},
  ): Promise<T> {
    const { what, timeoutMs, signal } = limits
    const forget = () => this.#pendingAnswers.delete(waiting)
    const waiting: PendingAnswer = {
      accept: (envelope, fds) => {
        try {
          const got = read(envelope, fds)
          if (got === null || got === 'part') return got !== null
          forget()
          if (!pending.resolve(got.answer)) late?.(got.answer)
        } catch (error) {
          forget()
          pending.reject(error)
        }
        return true
      },
      reject: error => {
        forget()
        pending.reject(error)
      },
    }
    const pending = new Pending<T>({ signal, ...(late === undefined && { onSettled: forget }) })
    if (this.#failure !== null) pending.reject(this.#failure)
    if (pending.settled) return pending.answer
    this.#pendingAnswers.add(waiting)
    // A send that fails is ignored: the link first delivers the messages that the peer has sent, then reports its end.
    if (sent === undefined) this.#link.post(body)
    else this.#send(body, sent, error => pending.reject(error))
    if (timeoutMs === null) return pending.answer
    const onLate = () => pending.reject(deadlineError(what, timeoutMs))
    return pending.limit(timeoutMs, onLate, { unref: this.#isUnref }).answer
  }

  #send(body: WireBody, borrowed: readonly OwnedFd[], failed: (error: unknown) => void): void {
    const fds = borrowed.map(fd => fd.dup())
    this.#link
      .send(body, fds)
      // After the link's end as above.
      .catch(error => this.#link.open && failed(error))
      .finally(() => closeAll(fds))
  }

  #fail(error: FdbError): void {
    this.#failure ??= error
    for (const waiting of [...this.#pendingAnswers]) waiting.reject(this.#failure)
    this.#link.close()
  }

  #endError(end: FdbError | null): FdbError {
    if (end !== null && !peerLeft(end)) return end
    return new FdbError(
      'ERR_FDB_CHANNEL_CLOSED',
      `${this.#peer} closed the connection, or died, before it answered: request the status to see which process serves`,
      { cause: end ?? undefined, retryable: true },
    )
  }
}

/** Returns the pid; 0 if the process is in another PID namespace; -1 if it has ended, or the pid is unknown. */
function pidFrom(pidfd: OwnedFd): number {
  try {
    return pidOfPidfd(pidfd)
  } catch {
    return -1
  }
}

function parseStatus(json: string): StatusAnswer {
  const answer = jsonObject(json)
  if (answer !== undefined) return answer
  throw new FdbError(
    'ERR_FDB_MESSAGE',
    `the status is not a JSON object (${json.length} characters): the process at the control socket is not fd-broker, or an incompatible release`,
  )
}

/** Connects and requests the status. Rejects as {@link OperatorClient.connect} and {@link OperatorClient.status} do. */
export async function statusAt(control: string, timeout: number): Promise<StatusAnswer> {
  using client = await OperatorClient.connect(control, { timeout })
  return await client.status({ timeout })
}
