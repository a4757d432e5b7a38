import { types } from 'node:util'
import protobufjs from 'protobufjs/minimal.js'
import { msgpackr } from '../base/lazy.js'
import { wrongOption } from '../checks/place.js'

/**
 * Throws a TypeError that names the first part of `value` that decoding would not restore. All formats preserve objects, arrays, strings,
 * booleans, finite numbers and null. `rich`: the format also preserves NaN, infinite numbers, bigints, bytes, Dates and undefined elements of arrays; it changes
 * text with half a surrogate pair, and a field `__proto__`.
 * Undefined fields are dropped: the reader sees no difference. Accepts every object with a `toJSON` method. The caller has encoded `value` before, so
 * `value` has no cycles.
 */
function checkPlain(value: unknown, rich: boolean): void {
  const found = findUnsupported(value, rich)
  if (found === null) return
  throw new TypeError(`${found.path === '' ? 'it is' : `its${found.path} is`} ${found.what}`)
}

/** Half a surrogate pair, which UTF-8 cannot carry. */
const halfPair = /\p{Surrogate}/u
const BAD_FIELD: UnsupportedValue = { what: 'a field whose name the format changes', path: '' }

interface UnsupportedValue {
  what: string
  /** In JavaScript syntax: `.items[3]`. */
  path: string
}

function findUnsupported(value: unknown, rich: boolean): UnsupportedValue | null {
  switch (typeof value) {
    case 'string':
      return rich && halfPair.test(value) ? { what: 'text with half a surrogate pair', path: '' } : null
    case 'boolean':
      return null
    case 'number':
      return rich || Number.isFinite(value) ? null : { what: String(value), path: '' }
    case 'bigint':
      return rich ? null : { what: 'a bigint', path: '' }
    case 'object':
      return value === null ? null : findUnsupportedInObject(value, rich)
    default:
      return { what: typeof value === 'undefined' ? 'undefined' : `a ${typeof value}`, path: '' }
  }
}

function findUnsupportedInObject(value: object, rich: boolean): UnsupportedValue | null {
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const element: unknown = value[i]
      if (element === undefined && rich) continue
      const found = findUnsupported(element, rich)
      if (found) return { what: found.what, path: `[${i}]${found.path}` }
    }
    return lostField(value)
  }
  const prototype: unknown = Object.getPrototypeOf(value)
  if (prototype !== Object.prototype && prototype !== null) {
    const what = kindWithoutFields(value, rich)
    if (what === '') return null
    if (what !== null) return { what, path: '' }
  }
  for (const key in value) {
    const element = (value as Record<string, unknown>)[key]
    if (element === undefined || (typeof element === 'string' && !rich)) continue
    const found =
      rich && (key === '__proto__' || halfPair.test(key)) ? BAD_FIELD : findUnsupported(element, rich)
    if (found && Object.hasOwn(value, key)) return { what: found.what, path: `.${key}${found.path}` }
  }
  return lostField(value)
}

/** Returns the first field that all formats drop: one of an array that is no element, or one whose name is a symbol. */
function lostField(value: object): UnsupportedValue | null {
  const isArray = Array.isArray(value)
  const keys = Reflect.ownKeys(value)
  // Elements come first, then texts, then symbols.
  const last = keys.at(-1)
  if (isArray ? last === 'length' : typeof last !== 'symbol') return null
  const fields = isArray
    ? keys.slice(keys.indexOf('length') + 1)
    : keys.filter(key => typeof key === 'symbol')
  for (const field of fields) {
    const { enumerable, value: content } = Object.getOwnPropertyDescriptor(value, field)!
    if (!enumerable || content === undefined) continue
    return typeof field === 'symbol'
      ? { what: 'a field whose name is a symbol, which the format drops', path: `[${String(field)}]` }
      : { what: 'a field of an array, which the format drops', path: `.${field}` }
  }
  return null
}

/** Returns null if the object's contents are in its fields. Otherwise returns '' if the format preserves the object, or a description with its class. */
function kindWithoutFields(value: object, rich: boolean): string | null {
  if (types.isUint8Array(value) && rich) return ''
  if (ArrayBuffer.isView(value) || types.isAnyArrayBuffer(value)) return `of class ${className(value)}`
  if (types.isDate(value) && rich) return ''
  if (typeof (value as { toJSON?: unknown }).toJSON === 'function') return ''
  const opaque =
    (rich ? types.isBoxedPrimitive(value) : types.isSymbolObject(value)) ||
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
 * Encodes a section's values to bytes and decodes them. The log stores `name`, and readers refuse another codec. `encode` throws for a value
 * that `decode` would not restore; the section adds the key to the error.
 */
export interface Codec<T> {
  readonly name: string
  encode(value: T): Uint8Array
  decode(bytes: Uint8Array): T
}

/** Stores bytes unchanged. */
export function bytes(): Codec<Uint8Array> {
  return {
    name: 'bytes',
    encode: value => {
      if (!types.isUint8Array(value)) throw new TypeError(`it is ${typeText(value)}, not a Uint8Array`)
      return value
    },
    decode: value => value,
  }
}

/**
 * JSON. Refuses undefined, NaN, Map, bytes, fields whose names are symbols, and fields of an array that are no elements. Stores an object with a `toJSON` method as the result of that method (a Date as text), and
 * drops fields that are undefined.
 */
export function json<T = unknown>(): Codec<T> {
  return {
    name: 'json',
    encode: value => {
      const text: string | undefined = JSON.stringify(value)
      checkPlain(value, false)
      return Buffer.from(text)
    },
    decode: value =>
      JSON.parse(Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString()) as T,
  }
}

/** MessagePack, by msgpackr without its record extension, so that every msgpack library can read it. Also stores bytes, 64-bit bigints and Dates. */
export function msgpack<T = unknown>(): Codec<T> {
  const { Packr } = msgpackr()
  const packr = new Packr({ useRecords: false, moreTypes: false, copyBuffers: true })
  return {
    name: 'msgpack',
    encode: value => {
      const packed = packr.pack(value)
      checkPlain(value, true)
      return packed
    },
    decode: value => packr.unpack(value) as T,
  }
}

/** A message type of protobufjs 7 or 8, generated (static module) or reflected. The application may use its own copy of the package. */
export interface ProtobufType<T, P = T> {
  encode(message: P): { finish(): Uint8Array }
  /** Called with a reader of the type's own copy of protobufjs, or with the bytes if that reader is unknown. */
  decode(bytes: Uint8Array): T
  /** Used to find the reader class of the type's own copy of protobufjs. `pbjs --no-delimited` omits this function. */
  decodeDelimited?(bytes: Uint8Array): unknown
}

/**
 * A protobufjs message type. The object that `get` returns keeps the fields that this version does not know; they survive if the application changes
 * and puts back that same object. A copy (`toObject`, spread, `structuredClone`) loses them. protobufjs 7 always drops unknown fields. protobufjs 8
 * drops them for types without `decodeDelimited`, unless `Reader.discardUnknown` is false.
 */
export function protobuf<T extends P, P = T>(type: ProtobufType<T, P>): Codec<T> {
  const { encode, decode } = (type ?? {}) as Partial<ProtobufType<T, P>>
  if (typeof encode !== 'function' || typeof decode !== 'function')
    throw wrongOption('type', type, 'a message type of protobufjs, with encode() and decode()')
  const read = readerFor(type)
  return {
    name: 'protobuf',
    encode: value => {
      if (typeof value !== 'object' || value === null)
        throw new TypeError(`it is ${typeText(value)}, not a message`)
      return type.encode(value).finish()
    },
    decode: value => type.decode(read(value)),
  }
}

function typeText(value: unknown): string {
  if (value === null || value === undefined) return String(value)
  return typeof value === 'object' ? `an object of class ${className(value)}` : `a ${typeof value}`
}

type MakeReader = (bytes: Uint8Array) => never

interface Decoding {
  decode(input: never): unknown
  decodeDelimited?(input: never): unknown
}

interface ReaderClass {
  create(bytes: Uint8Array): { discardUnknown?: boolean }
}

/** An empty message, preceded by its length. */
const DELIMITED = Uint8Array.of(0)

/**
 * Returns a function that creates readers with which `type` keeps unknown fields (protobufjs 8). A type accepts only readers of its own copy of
 * protobufjs; if no reader fits, the function returns the bytes.
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

/** Returns the reader class of the type's own copy: `decodeDelimited` creates such a reader and passes it to `this.decode`. */
function ownReaderOf(type: Decoding): ReaderClass | null {
  let reader: unknown
  try {
    const capturing = { decode: (given: unknown) => (reader = given) }
    type.decodeDelimited?.call(capturing, DELIMITED as never)
  } catch {
    // `type` is not a protobufjs type.
  }
  const readers = (reader as { constructor?: Partial<ReaderClass> } | undefined)?.constructor
  return typeof readers?.create === 'function' ? (readers as ReaderClass) : null
}

/** Whether `type` accepts a reader of our copy of protobufjs. A type of another copy takes the reader for bytes, and throws before it reads `len`. */
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
    // A missing required field makes decode() throw too, after it has read `len`.
  }
  return lengthRead
}
