import type { ByteStream, StreamOwner, Tally } from './byte-stream.js'
import type { Destination } from './destination.js'

/** Makes a stream to a server that is still connecting. May throw. */
export type Dial = (destination: Destination, owner: StreamOwner, tally: Tally) => ByteStream
