import { createRequire } from 'node:module'
import protobufjs from 'protobufjs/minimal.js'

/** Loaded when it is asked for: most processes do not, and it costs more than a MiB. */
const load = createRequire(import.meta.url)

/** Turns a section's values into bytes and back. `name` is kept in the log: readers refuse another codec. */
export interface Codec<T> {
  readonly name: string
  encode(value: T): Uint8Array
  decode(bytes: Uint8Array): T
}

/** The bytes as they are. `get` returns a copy of its own. */
export function bytes(): Codec<Uint8Array> {
  return { name: 'bytes', encode: value => value, decode: value => value }
}

export function json<T = unknown>(): Codec<T> {
  return {
    name: 'json',
    encode: value => Buffer.from(JSON.stringify(value)),
    decode: value =>
      JSON.parse(Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString()) as T,
  }
}

/** msgpackr without records: any version, and any other msgpack library, reads it. */
export function msgpack<T = unknown>(): Codec<T> {
  const { Packr } = load('msgpackr') as typeof import('msgpackr')
  const packr = new Packr({ useRecords: false, moreTypes: false, copyBuffers: true })
  return {
    name: 'msgpack',
    encode: value => packr.pack(value),
    decode: value => packr.unpack(value) as T,
  }
}

/** What protobufjs generates for a message (static module) or reflects. */
export interface ProtobufType<T, P = T> {
  encode(message: P): { finish(): Uint8Array }
  decode(reader: protobufjs.Reader): T
}

/**
 * A protobufjs message type. Fields that this version does not know are kept in what `get` returns, and survive when
 * that same object is changed and put back (not a copy of it: `toObject`, spread and `structuredClone` lose them).
 */
export function protobuf<T extends P, P = T>(type: ProtobufType<T, P>): Codec<T> {
  return {
    name: 'protobuf',
    encode: value => type.encode(value).finish(),
    decode: value => {
      const reader = protobufjs.Reader.create(value)
      reader.discardUnknown = false
      return type.decode(reader)
    },
  }
}
