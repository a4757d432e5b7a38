import { checkKeys, checkSignal, type Keys } from '../base/check-option.js'
import type { OwnedFd } from '../kernel/index.js'
import type { WireBody, WireEnvelope } from '../wire/link.js'

/** How long an answer may take that needs no work of the other side. */
export const ANSWER_MS = 5_000

export interface AskOptions {
  /** The limit for the connection's queue, then again for each answer, milliseconds. Default 5000. */
  timeoutMs?: number
  /** Rejects with its reason. What was asked for goes on. */
  signal?: AbortSignal
}

export const ASK: Keys<AskOptions> = { timeoutMs: true, signal: true }

/** Throws ERR_FDB_OPTION. */
export function checkAsk(what: string, ask: AskOptions, known: Keys<AskOptions>): void {
  checkKeys(what, ask, known)
  checkSignal(ask.signal)
}

/**
 * What a message is to a question: its answer, a part of what comes before it, or nothing. Takes of its descriptors what it wants.
 * Throws what it refuses with.
 */
export type Read<T> = (envelope: WireEnvelope, fds: OwnedFd[]) => { readonly answer: T } | 'part' | null

export interface Limits {
  /** In the error that says that no answer came. */
  readonly what: string
  /** null: an answer is waited for as long as the other side is there. */
  readonly timeoutMs: number | null
  readonly signal: AbortSignal | undefined
}

/** Asks over an operator's connection. The descriptors that go with the question are borrowed for the call. */
export type Ask = <T>(body: WireBody, limits: Limits, read: Read<T>, sent?: readonly OwnedFd[]) => Promise<T>
