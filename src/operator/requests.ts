import { LONGEST_MS } from '../base/duration.js'
import { abortSignal } from '../checks/options.js'
import { absent, type ShapeOf } from '../checks/shape.js'
import { predicate } from '../checks/values.js'
import { FdbError } from '../errors.js'
import type { Requester } from '../events/requester.js'
import type { OwnedFd } from '../kernel/index.js'
import type { Release } from '../os/release-link.js'
import type { fdbroker } from '../proto/wire.js'
import { remoteError, type WireBody, type WireEnvelope } from '../wire/link.js'
import type { DescriptorHolder } from './held-descriptors.js'

/** Maximum size of a command's body and of its reply in bytes: a frame has at most 16 MiB. */
export const COMMAND_BYTES = 15 * 1024 * 1024
/** Time limit for the reply of a command's handler. */
export const COMMAND_MS = 60_000

/** The error if a server refuses a request without a reason. */
const FAILED = { code: 'ERR_FDB_REJECTED', message: 'the process refused the request' } as const

export interface UpgradeOrder {
  /** The successor's command line. Empty: that of the running process. */
  readonly argv: readonly string[]
  /** Time limit in milliseconds. 0: only the limits of the handoff apply. */
  readonly timeoutMs: number
  /** For a daemon: the name of the service; '' if the daemon has only one. */
  readonly service: string
  /** Whether to kill the processes that block the upgrade first. */
  readonly killStuck: boolean
  /** Under `fd-broker/auto`: the addresses that the next version gives up. */
  readonly without: readonly string[]
  /** For a supervisor: the release to which it must set the release link. */
  readonly release?: Release
}

export interface UpgradeProgress {
  readonly phase: string
  readonly at: number
  readonly pid: number
}

export interface Upgraded {
  readonly pid: number
  readonly generation: number
}

/** A command that an operator sends to an application. */
export interface CommandOrder {
  readonly name: string
  readonly body: Buffer
  /** For a daemon: the name of the service; '' if the daemon has only one. */
  readonly service: string
}

export interface CommandContext {
  /** The operator's process as the kernel reports it; absent if a daemon forwards the request. */
  readonly by?: Requester
  /** Aborts when the operator's tool has disconnected and no longer waits for the reply. */
  readonly signal: AbortSignal
}

/**
 * Handles an operator's command. Returns the reply as bytes or text, or undefined for an empty reply. If the handler throws, the operator
 * gets the error; an FdbError keeps its code.
 */
export type CommandHandler = (
  body: Buffer,
  context: CommandContext,
) => Uint8Array | string | undefined | Promise<Uint8Array | string | undefined>

export interface Operations {
  status(): object | Promise<object>
  /** `cancel` aborts if the operator cancels the upgrade. The upgrade may succeed nevertheless. */
  upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
    by?: Requester,
  ): Promise<Upgraded>
  command(order: CommandOrder, context: CommandContext): Promise<Uint8Array>
  /** Absent if the process holds no descriptors for other processes. */
  readonly descriptors?: DescriptorHolder
}

// Any field of these messages may be missing. An answer has the `request` number of its request.

type UpgradeRequest = fdbroker.wire.UpgradeRequest.$Properties
type Command = fdbroker.wire.Command.$Properties
type CommandReply = fdbroker.wire.CommandReply.$Properties
type Result = fdbroker.wire.Result.$Properties
type Progress = fdbroker.wire.Progress.$Properties

/** Limit of the names in an operator's requests. */
const MOST_NAME_CHARACTERS = 128

export function readUpgrade({
  argv,
  timeoutMs,
  service,
  killStuck,
  without,
  at,
  release: to,
}: UpgradeRequest): UpgradeOrder {
  return {
    argv: argv ?? [],
    timeoutMs: timeoutMs && timeoutMs > 0 ? Math.min(timeoutMs, LONGEST_MS) : 0,
    service: checkedText('service', service),
    killStuck: killStuck ?? false,
    without: (without ?? []).map(text => checkedText('listener', text)),
    ...(at && to && { release: { at, to } }),
  }
}

/** Throws ERR_FDB_OPTION for addresses to give up, if no next version waits for the addresses of the running one. */
export function refuseWithout(without: readonly string[], why: string): void {
  if (without.length === 0) return
  throw new FdbError(
    'ERR_FDB_OPTION',
    `process ${process.pid} ${why}, so its next version does not wait for addresses: omit --without`,
  )
}

export function readProgress({ phase, at, pid }: Progress): UpgradeProgress {
  return { phase: phase ?? '', at: at ?? 0, pid: pid ?? 0 }
}

export function upgradedAnswer(request: number, { pid, generation }: Upgraded): WireBody {
  return { result: { ok: true, pid, generation, ...(request && { request }) } }
}

/** Returns the part of an answer that reports a failure. */
export function failureOf(error: unknown) {
  const { code, message, retryable } = FdbError.from(error)
  return { ok: false, code, message, retryable }
}

/** Returns the answer to a failed status request or upgrade. */
export function failedAnswer(request: number, error: unknown): WireBody {
  return { result: { ...failureOf(error), ...(request && { request }) } }
}

/** Reads a result. Throws the reported error; `fallback` replaces a missing code and message. */
export function readUpgraded(
  result: Result,
  fallback: { code: FdbError['code']; message: string } = FAILED,
): Upgraded {
  if (!result.ok) throw remoteError(result, fallback)
  return { pid: result.pid ?? 0, generation: result.generation ?? 0 }
}

export function readCommand({ name, body, service }: Command): CommandOrder {
  return {
    name: checkedText('command', name),
    body: asBuffer(body),
    service: checkedText('service', service),
  }
}

/** Throws ERR_FDB_OPTION for a name that is too long, before it is in a message or a log. */
function checkedText(what: string, name: string | null | undefined): string {
  if (name == null) return ''
  if (name.length <= MOST_NAME_CHARACTERS) return name
  throw new FdbError(
    'ERR_FDB_OPTION',
    `the name of a ${what} has ${name.length} characters: give at most ${MOST_NAME_CHARACTERS}`,
  )
}

export function checkCommandSize(what: string, bytes: number): void {
  if (bytes <= COMMAND_BYTES) return
  throw new FdbError(
    'ERR_FDB_COMMAND_SIZE',
    `${what} has ${bytes} bytes, but at most ${COMMAND_BYTES} can be sent at once: split it`,
    { details: { bytes, most: COMMAND_BYTES } },
  )
}

/** Returns the message with a command's reply. Throws ERR_FDB_COMMAND_SIZE. */
export function commandAnswer(request: number, body: Uint8Array): WireBody {
  checkCommandSize('the reply', body.length)
  return { commandReply: { request, ok: true, body } }
}

export function failedCommandAnswer(request: number, error: unknown): WireBody {
  return { commandReply: { request, ...failureOf(error) } }
}

/** Returns the body of a command's reply. Throws the error that the reply reports. */
export function readCommandReply(reply: CommandReply): Buffer {
  if (!reply.ok) throw remoteError(reply, FAILED)
  return asBuffer(reply.body)
}

/** Returns a Buffer that shares the memory of `bytes`. */
export function asBuffer(bytes: Uint8Array | null | undefined): Buffer {
  return bytes === null || bytes === undefined
    ? Buffer.alloc(0)
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** Time limit for an answer that the peer can give at once. */
export const ANSWER_MS = 5_000

export interface AskOptions {
  /** Time limit in milliseconds for connecting, and separately for each answer; at least 1. Default 5000; for `command()` 60000. */
  timeout?: number | undefined
  /** @internal The name of `timeout` before 0.5. */
  timeoutMs?: number | undefined
  /** An abort rejects the call with the signal's reason. The requested work continues. */
  signal?: AbortSignal | undefined
}

/** 0 is refused: in the protocol it means "no limit". */
const limit = absent(
  predicate<number>('milliseconds, at least 1', value => typeof value === 'number' && value >= 1),
)

export const ASK = {
  timeout: limit,
  timeoutMs: limit,
  signal: absent(abortSignal),
} satisfies ShapeOf<AskOptions>

export function limitOf(options: AskOptions, defaultMs: number): number {
  return Math.min(options.timeout ?? options.timeoutMs ?? defaultMs, LONGEST_MS)
}

/**
 * Reads a message of the peer. Returns the answer to the request; 'part' for a message of the request before its answer, such as Progress;
 * null for a message of another request. Removes the descriptors that it takes from `fds`. Throws the peer's refusal.
 */
export type ReadAnswer<T> = (envelope: WireEnvelope, fds: OwnedFd[]) => { readonly answer: T } | 'part' | null

export interface AskLimits {
  /** Names the awaited answer in the error after a timeout. */
  readonly what: string
  /** Time limit for the answer; null to wait until the peer disconnects. */
  readonly timeoutMs: number | null
  readonly signal: AbortSignal | undefined
}

export interface AskExtras<T> {
  /** Descriptors to send, borrowed for the call. */
  readonly sent?: readonly OwnedFd[] | undefined
  /** Gets the answer if it arrives after the time limit or the signal's abort. */
  readonly late?: (answer: T) => void
}

/** Sends a request over an operator's connection. */
export type Ask = <T>(
  body: WireBody,
  limits: AskLimits,
  read: ReadAnswer<T>,
  extras?: AskExtras<T>,
) => Promise<T>
