import { abortSignal, type Checks, unchecked } from '../base/check-option.js'
import { LONGEST_MS } from '../base/duration.js'
import { FdbError } from '../errors.js'
import type { OwnedFd } from '../kernel/index.js'
import type { Release } from '../os/release-link.js'
import type { fdbroker } from '../proto/wire.js'
import { remoteError, type WireBody, type WireEnvelope } from '../wire/link.js'
import type { DescriptorHolder } from './held-descriptors.js'

/** The most that a command's body or its reply has: a frame holds 16 MiB. */
export const COMMAND_BYTES = 15 * 1024 * 1024
/** A handler that does not answer keeps an operator's tool no longer. */
export const COMMAND_MS = 60_000

/** The refusal of a server that gives no reason. */
const FAILED = { code: 'ERR_FDB_REJECTED', message: 'it could not be done' } as const

export interface UpgradeOrder {
  /** Empty: as the running one was started. */
  readonly argv: readonly string[]
  /** 0: as long as the handoff's own limits allow. */
  readonly timeoutMs: number
  /** Daemon: which service; empty: the only one. */
  readonly service: string
  /** End those first that block it. */
  readonly killStuck: boolean
  /** For a supervisor: the link that must lead to a release. */
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

/** An application's command, from an operator's tool. */
export interface CommandOrder {
  readonly name: string
  readonly body: Buffer
  /** Daemon: which service; empty: the only one. */
  readonly service: string
}

export interface CommandContext {
  /** The operator, by the kernel's word; absent if a daemon passes the request on. */
  readonly by?: { readonly pid: number; readonly uid: number }
  /** Aborts when the operator's tool has left: the reply is not awaited any more. */
  readonly signal: AbortSignal
}

/**
 * Answers an operator's command. The reply is bytes, or text; undefined is an empty one. The operator gets its exception: an FdbError as it
 * is, with its code.
 */
export type CommandHandler = (
  body: Buffer,
  context: CommandContext,
) => Uint8Array | string | undefined | Promise<Uint8Array | string | undefined>

/** The requests of an operator. */
export interface Operations {
  status(): object | Promise<object>
  /** `cancel`: it is not wanted any more; the answer says what came of it. */
  upgrade(
    order: UpgradeOrder,
    progress: (step: UpgradeProgress) => void,
    cancel: AbortSignal,
  ): Promise<Upgraded>
  command(order: CommandOrder, context: CommandContext): Promise<Uint8Array>
  /** Absent: none are held here for others. */
  readonly descriptors?: DescriptorHolder
}

// Messages: each may lack any field. An answer repeats the `request` of its question.

type UpgradeRequest = fdbroker.wire.UpgradeRequest.$Properties
type Command = fdbroker.wire.Command.$Properties
type CommandReply = fdbroker.wire.CommandReply.$Properties
type Result = fdbroker.wire.Result.$Properties
type Progress = fdbroker.wire.Progress.$Properties

export function readUpgrade({
  argv,
  timeoutMs,
  service,
  killStuck,
  at,
  release: to,
}: UpgradeRequest): UpgradeOrder {
  return {
    argv: argv ?? [],
    timeoutMs: timeoutMs && timeoutMs > 0 ? Math.min(timeoutMs, LONGEST_MS) : 0,
    service: service ?? '',
    killStuck: killStuck ?? false,
    ...(at && to && { release: { at, to } }),
  }
}

export function readProgress({ phase, at, pid }: Progress): UpgradeProgress {
  return { phase: phase ?? '', at: at ?? 0, pid: pid ?? 0 }
}

export function upgradedAnswer(request: number, { pid, generation }: Upgraded): WireBody {
  return { result: { ok: true, pid, generation, ...(request && { request }) } }
}

/** A status or an upgrade has failed. */
export function failedAnswer(request: number, error: unknown): WireBody {
  const { code, message, retryable } = FdbError.from(error)
  return { result: { ok: false, code, message, retryable, ...(request && { request }) } }
}

/** Throws the error that it tells. */
export function readUpgraded(
  result: Result,
  otherwise: { code: FdbError['code']; message: string } = FAILED,
): Upgraded {
  if (!result.ok) throw remoteError(result, otherwise)
  return { pid: result.pid ?? 0, generation: result.generation ?? 0 }
}

export function readCommand({ name, body, service }: Command): CommandOrder {
  return { name: name ?? '', body: asBuffer(body), service: service ?? '' }
}

export function checkCommandSize(what: string, bytes: number): void {
  if (bytes <= COMMAND_BYTES) return
  throw new FdbError(
    'ERR_FDB_COMMAND_SIZE',
    `${what} has ${bytes} bytes, at most ${COMMAND_BYTES} can be sent at once: divide it`,
    { details: { bytes, most: COMMAND_BYTES } },
  )
}

/** Throws when the reply is too large. */
export function commandAnswer(request: number, body: Uint8Array): WireBody {
  checkCommandSize('the reply', body.length)
  return { commandReply: { request, ok: true, body } }
}

export function failedCommandAnswer(request: number, error: unknown): WireBody {
  const { code, message, retryable } = FdbError.from(error)
  return { commandReply: { request, ok: false, code, message, retryable } }
}

/** Throws the error that it tells. */
export function readCommandReply(reply: CommandReply): Buffer {
  if (!reply.ok) throw remoteError(reply, FAILED)
  return asBuffer(reply.body)
}

/** The same memory. */
export function asBuffer(bytes: Uint8Array | null | undefined): Buffer {
  return bytes === null || bytes === undefined
    ? Buffer.alloc(0)
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}

/** How long an answer may take that needs no work of the other side. */
export const ANSWER_MS = 5_000

export interface AskOptions {
  /** The limit for the connection's queue, then again for each answer, milliseconds. Default 5000; of `command()` 60000. */
  timeout?: number
  /** @internal The name of `timeout` before 0.5. */
  timeoutMs?: number
  /** Rejects with its reason. The requested work goes on. */
  signal?: AbortSignal
}

export const ASK: Checks<AskOptions> = { timeout: unchecked, timeoutMs: unchecked, signal: abortSignal }

export function limitOf(options: AskOptions, otherwise: number): number {
  return options.timeout ?? options.timeoutMs ?? otherwise
}

/**
 * The role of a message for a question: its answer, a part before the answer, or none. Takes the descriptors that it wants. Throws its
 * refusal.
 */
export type ReadAnswer<T> = (envelope: WireEnvelope, fds: OwnedFd[]) => { readonly answer: T } | 'part' | null

export interface AskLimits {
  /** In the error that says that no answer came. */
  readonly what: string
  /** null: an answer is waited for as long as the other side is there. */
  readonly timeoutMs: number | null
  readonly signal: AbortSignal | undefined
}

/** Asks over an operator's connection. The descriptors that go with the question are borrowed for the call. */
export type Ask = <T>(
  body: WireBody,
  limits: AskLimits,
  read: ReadAnswer<T>,
  sent?: readonly OwnedFd[],
) => Promise<T>
