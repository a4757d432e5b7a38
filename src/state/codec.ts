import { types } from 'node:util'
import protobufjs from 'protobufjs/minimal.js'
import { msgpackr } from '../base/lazy.js'
import { checkPlain, JSON_FORMAT, MSGPACK_FORMAT } from './plain-values.js'

/**
 * Turns a section's values into bytes and back. `name` is kept in the log: readers refuse another codec. `encode` throws for what
 * would not come back as it was; the section says whose value it is.
 */
export interface Codec<T> {
  readonly name: string
  encode(value: T): Uint8Array
  decode(bytes: Uint8Array): T
}

/** The bytes as they are. */
export function bytes(): Codec<Uint8Array> {
  return {
    name: 'bytes',
    encode: value => {
      if (!types.isUint8Array(value)) throw new TypeError(`it is ${kindOf(value)}, no Uint8Array`)
      return value
    },
    decode: value => value,
  }
}

/**
 * What JSON has: no undefined, no NaN, no Map, no bytes. An object with a `toJSON` comes back as what that gives (a Date as a
 * text), and a field that is undefined not at all.
 */
export function json<T = unknown>(): Codec<T> {
  return {
    name: 'json',
    encode: value => {
      const text: string | undefined = JSON.stringify(value)
      checkPlain(value, JSON_FORMAT)
      return Buffer.from(text)
    },
    decode: value =>
      JSON.parse(Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString()) as T,
  }
}

/** msgpackr without records: any version, and any other msgpack library, reads it. Bytes, bigints of 64 bits and Dates too. */
export function msgpack<T = unknown>(): Codec<T> {
  const { Packr } = msgpackr()
  const packr = new Packr({ useRecords: false, moreTypes: false, copyBuffers: true })
  return {
    name: 'msgpack',
    encode: value => {
      const packed = packr.pack(value)
      checkPlain(value, MSGPACK_FORMAT)
      return packed
    },
    decode: value => packr.unpack(value) as T,
  }
}

/** What protobufjs, 7 or 8, generates for a message (static module) or reflects: of any copy, the application's own too. */
export interface ProtobufType<T, P = T> {
  encode(message: P): { finish(): Uint8Array }
  /** Is given a reader of its own copy of protobufjs where it has one to give, else the bytes. */
  decode(bytes: Uint8Array): T
  /** Says which reader that is (`pbjs --no-delimited` leaves it out). */
  decodeDelimited?(bytes: Uint8Array): unknown
}

/**
 * A protobufjs message type. Fields that this version does not know are kept in what `get` returns, and survive when
 * that same object is changed and put back (not a copy of it: `toObject`, spread and `structuredClone` lose them). Not so
 * with protobufjs 7, which drops what it does not know, nor with 8 for types without `decodeDelimited`, unless its
 * `Reader.discardUnknown` is false.
 */
export function protobuf<T extends P, P = T>(type: ProtobufType<T, P>): Codec<T> {
  const read = readerFor(type)
  return {
    name: 'protobuf',
    encode: value => {
      if (typeof value !== 'object' || value === null)
        throw new TypeError(`it is ${kindOf(value)}, no message`)
      return type.encode(value).finish()
    },
    decode: value => type.decode(read(value)),
  }
}

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  return typeof value === 'object'
    ? `an object of class ${value.constructor?.name ?? 'unknown'}`
    : `a ${typeof value}`
}

/** Makes of bytes what a message type decodes. */
type MakeReader = (bytes: Uint8Array) => never

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
function readerFor(type: Decoding): MakeReader {
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
