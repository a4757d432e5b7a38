import type { ByteStream } from './byte-stream.js'
import type { Origin } from './origin.js'

/** What an exchange knows of the client's connection that it belongs to. */
export interface ExchangeSide {
  readonly client: ByteStream
  readonly origin: Origin
  /** The client has sent FIN. */
  readonly ended: boolean
  /** Something was read ahead. */
  readonly hasHeld: boolean
  /** The client has sent FIN, and no request behind the one under way. */
  readonly isLast: boolean
  /** Its next answer is the last one, if nothing was read ahead. */
  readonly staying: boolean
  /** What was read ahead. */
  takeHeld(): Buffer | null
  /** The present timeout begins anew. */
  arm(): void
  /** Something has changed: who may read, and is there a next request? */
  settle(): void
  /** The exchange is over; with `close` no other follows. */
  finished(close: boolean): void
  /** Both sides are closed at once, so that the client sees an error. */
  abort(reason: string): void
}
