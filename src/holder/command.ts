import { FdbError } from '../errors.js'
import type { fdbroker } from '../proto/wire.js'
import { remoteError } from '../protocol/remote-error.js'

/** Of a command's body and of its reply: a frame holds 16 MiB. */
export const COMMAND_BYTES = 15 * 1024 * 1024
/** A handler that does not answer keeps an operator's tool no longer. */
export const COMMAND_MS = 60_000

/** An application's command, from an operator's tool. */
export interface CommandOrder {
  readonly name: string
  readonly body: Buffer
  /** Daemon: which service; empty: the only one. */
  readonly service: string
}

export interface CommandContext {
  /** Aborted when the operator's tool has left: nobody waits for the reply any more. */
  readonly signal: AbortSignal
}

/**
 * Answers an operator's command. The reply is bytes, or text; nothing is an empty one. What it throws is told to the
 * operator: an FdbError as it is, with its code.
 */
export type CommandHandler = (
  body: Buffer,
  context: CommandContext,
) => Uint8Array | string | undefined | Promise<Uint8Array | string | undefined>

type Reply = fdbroker.wire.CommandReply.$Properties

/** Of a message that may lack any field. */
export function readCommand(command: fdbroker.wire.Command.$Properties): {
  order: CommandOrder
  request: number
} {
  const { name, body, service, request } = command
  return { order: { name: name ?? '', body: asBuffer(body), service: service ?? '' }, request: request ?? 0 }
}

export function checkCommandSize(what: string, bytes: number): void {
  if (bytes <= COMMAND_BYTES) return
  throw new FdbError(
    'ERR_FDB_COMMAND_SIZE',
    `${what} has ${bytes} bytes, at most ${COMMAND_BYTES} can be sent at once: divide it`,
    { details: { bytes, most: COMMAND_BYTES } },
  )
}

export function repliedWith(request: number, body: Uint8Array): Reply {
  checkCommandSize('the reply', body.length)
  return { request, ok: true, body }
}

export function failedReply(request: number, error: unknown): Reply {
  const { code, message, retryable } = FdbError.from(error)
  return { request, ok: false, code, message, retryable }
}

/** What a reply says: its bytes, or the error that it tells. */
export function resultOf(reply: Reply): Buffer {
  if (reply.ok) return asBuffer(reply.body)
  throw remoteError(reply, { code: 'ERR_FDB_REJECTED', message: 'it could not be done' })
}

/** The same memory. */
export function asBuffer(bytes: Uint8Array | null | undefined): Buffer {
  return bytes === null || bytes === undefined
    ? Buffer.alloc(0)
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
