import { types } from 'node:util'
import protobufjs from 'protobufjs/minimal.js'
import { msgpackr } from '../base/lazy.js'

/** Types that a format keeps beside objects, arrays, strings, booleans, finite numbers and null. */
interface Format {
  /** If false, undefined fields are dropped, which reads the same; elsewhere undefined would become null. */
  undefined: boolean
  nonFinite: boolean
  bigint: boolean
  bytes: boolean
  dates: boolean
}

const JSON_FORMAT: Format = {
  undefined: false,
  nonFinite: false,
  bigint: false,
  bytes: false,
  dates: false,
}
const MSGPACK_FORMAT: Format = {
  undefined: true,
  nonFinite: true,
  bigint: true,
  bytes: true,
  dates: true,
}

/** Throws a TypeError that names the part of a value that would be decoded as something else. Trusts `toJSON`. There are no cycles. */
function checkPlain(value: unknown, format: Format): void {
  const found = findUnsupported(value, format)
  if (found === null) return
  throw new TypeError(`${found.path === '' ? 'it is' : `its${found.path} is`} ${found.what}`)
}

interface UnsupportedValue {
  what: string
  /** As in the source text: `.items[3]`. */
  path: string
}

function findUnsupported(value: unknown, format: Format): UnsupportedValue | null {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return null
    case 'number':
      return format.nonFinite || Number.isFinite(value) ? null : { what: String(value), path: '' }
    case 'bigint':
      return format.bigint ? null : { what: 'a bigint', path: '' }
    case 'object':
      return value === null ? null : findUnsupportedInObject(value, format)
    default:
      return { what: typeof value === 'undefined' ? 'undefined' : `a ${typeof value}`, path: '' }
  }
}

function findUnsupportedInObject(value: object, format: Format): UnsupportedValue | null {
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const one: unknown = value[i]
      if (one === undefined && format.undefined) continue
      const found = findUnsupported(one, format)
      if (found) return { what: found.what, path: `[${i}]${found.path}` }
    }
    return null
  }
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) {
    const what = kindWithoutFields(value, format)
    if (what === '') return null
    if (what !== null) return { what, path: '' }
  }
  for (const key in value) {
    const one = (value as Record<string, unknown>)[key]
    if (one === undefined || typeof one === 'string') continue
    const found = findUnsupported(one, format)
    if (found && Object.hasOwn(value, key)) return { what: found.what, path: `.${key}${found.path}` }
  }
  return null
}

/** The name of an object whose contents are not in its fields; empty: the format keeps it; null: they are. */
function kindWithoutFields(value: object, format: Format): string | null {
  if (types.isUint8Array(value) && format.bytes) return ''
  if (ArrayBuffer.isView(value) || types.isAnyArrayBuffer(value)) return `of class ${className(value)}`
  if (types.isDate(value) && format.dates) return ''
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') return ''
  const opaque =
    types.isMap(value) ||
    types.isSet(value) ||
    types.isWeakMap(value) ||
    types.isWeakSet(value) ||
    types.isPromise(value) ||
    types.isRegExp(value) ||
    types.isNativeError(value)
  return opaque ? `of class ${className(value)}` : null
}

function className(value: object): string {
  return value.constructor?.name ?? 'unknown'
}

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
 * JSON: no undefined, no NaN, no Map, no bytes. An object with a `toJSON` comes back as the result of that (a Date as a text), and a field
 * that is undefined does not come back.
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

/** A message type that protobufjs, 7 or 8, generates (static module) or reflects, of any copy of the package. */
export interface ProtobufType<T, P = T> {
  encode(message: P): { finish(): Uint8Array }
  /** Is given a reader of its own copy of protobufjs where it has one to give, else the bytes. */
  decode(bytes: Uint8Array): T
  /** Says which reader that is (`pbjs --no-delimited` leaves it out). */
  decodeDelimited?(bytes: Uint8Array): unknown
}

/**
 * A protobufjs message type. Fields that this version does not know are kept in what `get` returns, and survive when that same object is changed and put back
 * (not a copy of it: `toObject`, spread and `structuredClone` lose them). Not so with protobufjs 7, which drops what it does not know, nor with 8 for types
 * without `decodeDelimited`, unless its `Reader.discardUnknown` is false.
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

type MakeReader = (bytes: Uint8Array) => never

interface Decoding {
  decode(input: never): unknown
  decodeDelimited?(input: never): unknown
}

interface ReaderClass {
  create(bytes: Uint8Array): { discardUnknown?: boolean }
}

/** An empty message behind its length. */
const DELIMITED = Uint8Array.of(0)

/**
 * Makes readers with which `type` keeps unknown fields (protobufjs 8). It only accepts readers of its own copy of protobufjs; a type that accepts none gets the
 * bytes.
 */
function readerFor(type: Decoding): MakeReader {
  const readers = ownReaderOf(type) ?? (acceptsOurReader(type) ? protobufjs.Reader : null)
  if (readers === null) return bytes => bytes as never
  return bytes => {
    const reader = readers.create(bytes)
    reader.discardUnknown = false
    return reader as never
  }
}

/** `decodeDelimited` makes a reader of its own copy, and passes it to `this.decode`. */
function ownReaderOf(type: Decoding): ReaderClass | null {
  let made: unknown
  try {
    const catching = { decode: (reader: unknown) => (made = reader) }
    type.decodeDelimited?.call(catching, DELIMITED as never)
  } catch {
    // Not a type of protobufjs.
  }
  const readers = (made as { constructor?: Partial<ReaderClass> } | undefined)?.constructor
  return typeof readers?.create === 'function' ? (readers as ReaderClass) : null
}

/** A type of another copy treats our reader as bytes, and throws before it reads the length. */
function acceptsOurReader(type: Decoding): boolean {
  const reader = protobufjs.Reader.create(new Uint8Array())
  let lengthRead = false
  Object.defineProperty(reader, 'len', {
    configurable: true,
    get: () => {
      lengthRead = true
      return 0
    },
    set: () => undefined,
  })
  try {
    type.decode(reader as never)
  } catch {
    // A required field is missing, so the reader was accepted.
  }
  return lengthRead
}
