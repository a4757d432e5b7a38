import type { IncomingMessage, ServerResponse } from 'node:http'
import { checkOptions, nameUpTo } from '../checks/options.js'
import { wrongOption } from '../checks/place.js'
import { absent, map, optional, type ShapeOf } from '../checks/shape.js'
import { integer, unchecked } from '../checks/values.js'
import { addTakenOver, takenOverFor } from '../connections/adapters/taken-over.js'
import { FdbError } from '../errors.js'
import { processMember } from '../member/joining/process-member.js'
import type { Member } from '../member/member.js'
import { type ChannelEvent, EventLog } from './event-log.js'
import { MovedAnswers } from './moved-answers.js'

export interface EventChannelsOptions {
  /** The name of the section; both versions must give the same name. Default `events`. */
  readonly name?: string | undefined
  /** How many events of all channels together are kept for clients that reconnect; default 10,000. */
  readonly keep?: number | undefined
  /** Default: the member of this process, which may join later. */
  readonly member?: Member | undefined
}

export interface PublishOptions {
  /** The type of the event, for which a client calls `addEventListener()`; default `message`. */
  readonly event?: string | undefined
}

const OPTIONS = map({
  name: optional(nameUpTo(200), 'events'),
  keep: optional(integer(1, 1_000_000), 10_000),
  member: absent(unchecked<Member>()),
} satisfies ShapeOf<EventChannelsOptions>)
const PUBLISH = map({ event: absent(unchecked<string>()) } satisfies ShapeOf<PublishOptions>)

/** The interval at which each stream gets its position, so that a proxy does not take it for dead, in milliseconds. */
const BEAT_MS = 15_000
const LINE_END = /\r\n|\n|\r/
/** Tells the client that it has missed events which are not kept any more. */
const GAP = 'event: gap\ndata: \n\n'

/** An event stream of a client. */
interface Stream {
  readonly channel: string
  readonly response: ServerResponse
  /** The number of the last event that the client has got; while the client is not slow, it also has those that came before the present ones. */
  at: number
  /** The client reads more slowly than events come. */
  full: boolean
}

/**
 * Channels of server-sent events. A client that reconnects to any version gets the events that it has missed, each once, in order; and its stream moves to the
 * next version in an upgrade without a reconnect. Make it before the server's first connection. Throws ERR_FDB_OPTION.
 */
export class EventChannels {
  readonly #streams = new Map<ServerResponse, Stream>()
  readonly #byChannel = new Map<string, Set<Stream>>()
  #log: EventLog

  constructor(options: EventChannelsOptions = {}) {
    const { name, keep, member: given } = checkOptions('new EventChannels()', options, OPTIONS)
    const protocol = `events/1 ${name}`
    if (takenOverFor(null, protocol) !== undefined)
      throw new FdbError(
        'ERR_FDB_OPTION',
        `this process already has EventChannels with the name "${name}": give each the option "name"`,
      )
    const added = (channel: string, since: number) => this.#advanceAll(channel, since)
    const log = (member: Member | null) => new EventLog({ name, keep, added }, member)
    const own = processMember()
    const member = given ?? own.member
    this.#log = log(member)
    if (member === null) own.waiting.add({ joined: joiner => this.#join(log(joiner)) })
    addTakenOver(
      new MovedAnswers({
        protocol,
        server: null,
        hasAnswer: response => this.#streams.has(response),
        serialize: (_request, response) => this.#serialize(response),
        restore: (_request, response, data) => this.#restore(response, data),
      }),
    )
    setInterval(() => this.#beat(), BEAT_MS).unref()
  }

  /** Sends an event to all clients of the channel, in every version. Resolves when the event is in the state; rejects as `section.put()` does. */
  async publish(channel: string, data: string, options: PublishOptions = {}): Promise<void> {
    const { event: type } = checkOptions('publish()', options, PUBLISH)
    checkChannel(channel)
    if (typeof data !== 'string') throw wrongOption('data', data, 'a text')
    if (type !== undefined && (typeof type !== 'string' || type === '' || LINE_END.test(type)))
      throw wrongOption('event', type, 'a name of one line')
    try {
      await this.#log.publish({ channel, data, ...(type !== undefined && { type }) })
    } catch (error) {
      // The event is kept until this process serves.
      if (!FdbError.is(error) || error.code !== 'ERR_FDB_NOT_READY') throw error
    }
  }

  /**
   * Answers a request with the events of the channel, from now on. If the request has a Last-Event-ID, the client first gets the events that it has missed; if some are not kept any more, it gets an event of type `gap` before. Writes
   * the head, with the headers that the response has.
   */
  stream(channel: string, request: IncomingMessage, response: ServerResponse): void {
    checkChannel(channel)
    if (!request?.headers) throw wrongOption('request', request, 'the request of an http.Server')
    if (!response?.writeHead) throw wrongOption('response', response, 'the response of an http.Server')
    // The client has gone: no 'close' would follow.
    if (response.destroyed) return
    response.writeHead(200, {
      'Content-Type': 'text/event-stream',
      // A middleware that compresses would keep events back, and its answers do not move.
      'Cache-Control': 'no-cache, no-transform',
      'X-Accel-Buffering': 'no',
    })
    if (request.method === 'HEAD') {
      response.end()
      return
    }
    const last = String(request.headers['last-event-id'] ?? '')
    const known = last === '' ? this.#log.last : this.#numberOf(last)
    const stream = this.#open(channel, response, known ?? this.#log.floor)
    if (known === null || known < this.#log.floor || !this.#log.reaches(known)) this.#tellGap(stream)
    else write(stream, this.#position(known))
    this.#advance(stream)
  }

  #join(log: EventLog): void {
    const early = this.#log
    this.#log = log
    // A member that has not served has left the events of other processes here.
    for (const event of early.isInState ? [] : early.all())
      log.publish(event).catch(error => {
        if (!FdbError.is(error) || error.code !== 'ERR_FDB_NOT_READY')
          log.warn(error, 'an event from before join() was lost')
      })
    // Clients of earlier streams have numbers of the memory of this process.
    for (const { response } of [...this.#streams.values()]) response.end()
  }

  #open(channel: string, response: ServerResponse, at: number): Stream {
    const stream: Stream = { channel, response, at, full: false }
    this.#streams.set(response, stream)
    const all = this.#byChannel.get(channel)
    if (all === undefined) this.#byChannel.set(channel, new Set([stream]))
    else all.add(stream)
    response.on('close', () => this.#forget(stream))
    response.on('drain', () => {
      stream.full = false
      this.#advance(stream)
    })
    return stream
  }

  #forget(stream: Stream): void {
    const { channel, response } = stream
    this.#streams.delete(response)
    const all = this.#byChannel.get(channel)
    all?.delete(stream)
    if (all?.size === 0) this.#byChannel.delete(channel)
  }

  #serialize(response: ServerResponse): Uint8Array | null {
    const stream = this.#streams.get(response)
    if (stream === undefined) return null
    const { channel, full } = stream
    const { start, told } = this.#log
    // Another hook may have read the state in this turn: the client does not have those events yet.
    const at = full ? stream.at : Math.max(stream.at, told)
    this.#forget(stream)
    return Buffer.from(JSON.stringify({ channel, at, start }))
  }

  #restore(response: ServerResponse, data: Uint8Array): void {
    const { channel, at, start } = JSON.parse(Buffer.from(data).toString())
    const stream = this.#open(channel, response, at)
    if (start !== null && start !== this.#log.start) this.#tellGap(stream)
    this.#advance(stream)
  }

  #advanceAll(channel: string, since: number): void {
    for (const stream of this.#byChannel.get(channel) ?? []) {
      if (!stream.full) stream.at = Math.max(stream.at, since)
      this.#advance(stream)
    }
  }

  #advance(stream: Stream): void {
    const events = this.#log.of(stream.channel)
    if (stream.full || events === undefined || !this.#streams.has(stream.response)) return
    if (stream.at < this.#log.floor) this.#tellGap(stream)
    for (const [number, event] of events) {
      if (stream.full) return
      if (number <= stream.at) continue
      stream.at = number
      write(stream, `${this.#idOf(number)}${textOf(event)}`)
    }
  }

  #tellGap(stream: Stream): void {
    stream.at = this.#log.floor
    write(stream, `${this.#idOf(stream.at)}${GAP}`)
  }

  #beat(): void {
    const { last } = this.#log
    for (const stream of this.#streams.values()) {
      if (stream.full) continue
      // The state is older than the client.
      if (stream.at > last) {
        this.#tellGap(stream)
        this.#advance(stream)
      } else {
        stream.at = last
        write(stream, this.#position(last))
      }
    }
  }

  /** An id without an event: from here on the client reconnects. */
  #position(number: number): string {
    return `${this.#idOf(number) || ':\n'}\n`
  }

  #idOf(number: number): string {
    const { start } = this.#log
    return start === null ? '' : `id: ${start}-${number}\n`
  }

  /** Returns the number in an id, or null if it is not from this log. */
  #numberOf(id: string): number | null {
    const [, start, number] = /^(\w+)-(\d{1,15})$/.exec(id) ?? []
    return start !== undefined && start === this.#log.start ? Number(number) : null
  }
}

function checkChannel(channel: string): void {
  if (typeof channel !== 'string' || channel === '')
    throw wrongOption('channel', channel, 'the name of a channel')
}

/** Bytes, because Node cannot give back a text that the client has not received. */
function write(stream: Stream, text: string): void {
  const { response } = stream
  if (response.writableEnded || response.destroyed) return
  stream.full = !response.write(Buffer.from(text))
}

function textOf({ type, data }: ChannelEvent): string {
  const lines = data.split(LINE_END).map(line => `data: ${line}\n`)
  return `${type === undefined ? '' : `event: ${type}\n`}${lines.join('')}\n`
}
