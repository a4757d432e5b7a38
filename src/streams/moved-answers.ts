import type http from 'node:http'
import type net from 'node:net'
import { hookBytes } from '../connections/adapters/application-socket.js'
import { EventStreamEnds } from '../connections/adapters/event-stream-ends.js'
import type { Leaving, TakenOver } from '../connections/adapters/taken-over.js'
import { decoded, MAX_RECORD_BYTES } from '../connections/movable.js'
import { holdWrites } from '../node/held-writes.js'
import { responseOf } from '../node/http-connections.js'
import { isPlain } from '../node/socket-handle.js'
import {
  answerFacts,
  attachAnswer,
  discardAnswer,
  isOnlyRequest,
  isUnfinished,
  ownCorks,
  rebuiltAnswer,
  UNFINISHED_ANSWER,
} from '../node/unfinished-answer.js'
import { succeedUnfinishedWrites, UNSENT_BYTES, unsentBytes } from '../node/unsent-bytes.js'
import { fdbroker } from '../proto/connections.js'

/** Bytes of a record for everything but the unsent ones: heads, the application's data. */
const OTHER_BYTES = 512 * 1024
const NOTHING = new Uint8Array(0)
const { UnfinishedAnswer } = fdbroker.connections

export interface AnswersOptions {
  /** The name and version of the record format. */
  readonly protocol: string
  /** The server whose answers these are; null: any server's. */
  readonly server: http.Server | null
  hasAnswer(response: http.ServerResponse): boolean
  serialize(request: http.IncomingMessage, response: http.ServerResponse): Uint8Array | null | undefined
  restore(request: http.IncomingMessage, response: http.ServerResponse, data: Uint8Array): void
}

/** Unfinished answers that continue in the next process. */
export class MovedAnswers implements TakenOver {
  readonly protocol: string
  readonly server: http.Server | null
  readonly #options: AnswersOptions
  readonly #ends = new EventStreamEnds()
  /** Why an answer has not left. */
  readonly #reasons = new WeakMap<http.ServerResponse, string>()

  constructor(options: AnswersOptions) {
    this.#options = options
    this.protocol = options.protocol
    this.server = options.server
  }

  get moves(): boolean {
    return UNFINISHED_ANSWER.works
  }

  hasAnswer(response: http.ServerResponse): boolean {
    return this.#options.hasAnswer(response)
  }

  serialize(socket: net.Socket): Uint8Array | null {
    const response = responseOf(socket)
    if (response === null || !isUnfinished(response)) return null
    try {
      return this.#serialize(socket, response)
    } catch (error) {
      this.#reasons.set(response, 'hook')
      throw error
    }
  }

  #serialize(socket: net.Socket, response: http.ServerResponse): Uint8Array | null {
    const { req } = response
    if (!isOnlyRequest(socket, response)) return this.#stays(response, 'pipelined')
    if (unsentOf(socket) === null) return this.#stays(response, 'sending')
    // OpenSSL would encrypt what the hook writes, and the position would be known only when that is sent.
    const letGo = isPlain(socket) ? () => {} : holdWrites(socket)
    let record: Uint8Array | null = null
    try {
      record = this.#recordOf(socket, response)
    } finally {
      if (record === null) letGo()
    }
    if (record === null) return null
    succeedUnfinishedWrites(socket)
    // 'close' of both follows, without an error. Later, because it may destroy the socket, whose position the caller takes now.
    process.nextTick(() => req.destroy())
    return record
  }

  #recordOf(socket: net.Socket, response: http.ServerResponse): Uint8Array | null {
    const returned = this.#options.serialize(response.req, response)
    const data = returned === null || returned === undefined ? null : hookBytes(returned)
    if (data === null) return this.#stays(response, 'answering')
    // The writes of the hook leave too.
    while (ownCorks(response) > 0 && !response.writableEnded) response.uncork()
    const unsent = unsentOf(socket)
    // The hook may have ended the answer.
    if (unsent === null || !isUnfinished(response)) return this.#stays(response, 'sending')
    const facts = answerFacts(response)
    return UnfinishedAnswer.encode({
      ...facts,
      head: Buffer.from(facts.head, 'latin1'),
      length: facts.length ?? undefined,
      written: facts.written ?? undefined,
      data,
      unsent,
    }).finish()
  }

  #stays(response: http.ServerResponse, reason: string): null {
    this.#reasons.set(response, reason)
    return null
  }

  restore(socket: net.Socket, bytes: Uint8Array): void {
    const record = decoded(UnfinishedAnswer.decode, bytes)
    const response = rebuiltAnswer(socket, {
      method: record.method ?? '',
      url: record.url ?? '',
      httpVersion: record.httpVersion ?? '',
      requestHeaders: record.requestHeaders ?? [],
      status: record.status ?? 0,
      statusText: record.statusText ?? '',
      headers: record.headers ?? [],
      head: Buffer.from(record.head ?? NOTHING).toString('latin1'),
      chunked: record.chunked ?? false,
      hasBody: record.hasBody ?? false,
      last: record.last ?? false,
      trailer: record.trailer ?? '',
      length: record.length ?? null,
      written: record.written ?? null,
    })
    try {
      this.#options.restore(response.req, response, record.data ?? NOTHING)
    } catch (error) {
      discardAnswer(response, socket)
      throw error
    }
    attachAnswer(response, socket, record.unsent ?? NOTHING)
  }

  reasonOf(socket: net.Socket): string {
    const response = responseOf(socket)
    if (!this.moves) return 'unsupported'
    return (response && this.#reasons.get(response)) ?? 'answering'
  }

  takeBack(): void {
    // None is held.
  }

  leave(sockets: readonly net.Socket[], how: Leaving): void {
    this.#ends.leave(sockets, how)
  }

  stay(): void {
    this.#ends.stay()
  }
}

/** Returns the bytes that the kernel has not taken, or null if they are unknown or too many. */
function unsentOf(socket: net.Socket): Buffer | null {
  if (socket.writableLength > MAX_RECORD_BYTES - OTHER_BYTES) return null
  if (socket.writableLength === 0) return Buffer.alloc(0)
  return UNSENT_BYTES.works ? unsentBytes(socket) : null
}
