import protobufjs from 'protobufjs/minimal.js'

/** Makes of bytes what a message type decodes. */
export type MakeReader = (bytes: Uint8Array) => never

interface Decoding {
  decode(input: never): unknown
  decodeDelimited?(input: never): unknown
}

interface ReaderClass {
  create(bytes: Uint8Array): { discardUnknown?: boolean }
}

/** An empty message, after its length. */
const DELIMITED = Uint8Array.of(0)

/**
 * What gives `type` its bytes, so that fields it does not know are kept where its protobufjs can (8). A type takes readers of
 * the copy of protobufjs that it was made with and of no other, and the application may have another copy, or release, than
 * this library. A type that tells its own reader to nobody and takes none of ours gets the bytes: what it does not know is then
 * as its runtime has it.
 */
export function readerFor(type: Decoding): MakeReader {
  const readers = ownReader(type) ?? (takesOurs(type) ? protobufjs.Reader : null)
  if (readers === null) return bytes => bytes as never
  return bytes => {
    const reader = readers.create(bytes)
    reader.discardUnknown = false
    return reader as never
  }
}

/** `decodeDelimited` makes a reader, if it is not given one of its own, and passes it to `this.decode`. */
function ownReader(type: Decoding): ReaderClass | null {
  let made: unknown
  try {
    const catching = { decode: (reader: unknown) => (made = reader) }
    type.decodeDelimited?.call(catching, DELIMITED as never)
  } catch {
    // Not made by protobufjs.
  }
  const readers = (made as { constructor?: Partial<ReaderClass> } | undefined)?.constructor
  return typeof readers?.create === 'function' ? (readers as ReaderClass) : null
}

/** One that is not its own is no bytes to it: it refuses it before it has asked for the length. */
function takesOurs(type: Decoding): boolean {
  const reader = protobufjs.Reader.create(new Uint8Array())
  let asked = false
  Object.defineProperty(reader, 'len', {
    configurable: true,
    get: () => {
      asked = true
      return 0
    },
    set: () => undefined,
  })
  try {
    type.decode(reader as never)
  } catch {
    // A field is required: it has read that there is nothing.
  }
  return asked
}
