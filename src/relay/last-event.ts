import { encodeChunk, type Framing, LAST_CHUNK, takeContent } from '../http1/index.js'
import { type EventTracker, eventText } from './boundaries/index.js'
import type { ByteStream } from './byte-stream.js'
import { type BodyCoding, clean, followSpans } from './response-plan.js'

/** Brings a stream of events to an end that its server did not write: between two events, behind one of the operator's. */
export class LastEvent {
  readonly #event: Buffer
  #coding: BodyCoding

  /** `event` may be empty. */
  constructor(event: string, coding: BodyCoding) {
    this.#event = Buffer.from(eventText(event))
    this.#coding = coding
  }

  /**
   * Passes on what of the body is in `chunk[from, stop)`, up to the first place for the end, and writes that there. True: the body
   * has ended, here or by its server. Throws `Http1Refusal`.
   */
  pass(
    to: ByteStream,
    body: Framing,
    events: EventTracker,
    chunk: Buffer,
    from: number,
    stop: number = chunk.length,
  ): boolean {
    let at = from
    if (this.#coding === 'as-is') {
      // The server's chunk was announced with its length: it must come to its end. Then chunks are made here.
      if (!body.betweenChunks) {
        const spans: number[] = []
        at += body.advanceChunk(chunk, from, stop, spans)
        if (at > from) to.write(clean(body, chunk, from, at))
        followSpans(events, chunk, spans)
        if (body.done || !body.betweenChunks) return body.done
      }
      this.#coding = 'chunks'
    }
    if (events.between) return this.#end(to, this.#event)
    for (const piece of takeContent(body, chunk, at, stop).content) {
      const end = events.followEvent(piece, 0, piece.length)
      this.#write(to, piece.subarray(0, end))
      if (events.between) return this.#end(to, this.#event)
    }
    return body.done && this.#end(to, Buffer.alloc(0))
  }

  #end(to: ByteStream, event: Buffer): true {
    this.#write(to, event)
    if (this.#coding === 'chunks') to.write(LAST_CHUNK)
    return true
  }

  #write(to: ByteStream, content: Buffer): void {
    if (content.length === 0) return
    to.write(this.#coding === 'chunks' ? Buffer.concat(encodeChunk(content)) : content)
  }
}
