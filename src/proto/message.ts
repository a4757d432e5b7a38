// The common part of all messages; tools/build-proto.mjs generates the files beside this one, a class for each message.
import protobuf from 'protobufjs/minimal.js'

export const { Reader, Writer } = protobuf
export type Reader = protobuf.Reader
export type Writer = protobuf.Writer

/** An absent field of bytes. */
export const NO_BYTES: Uint8Array = protobuf.util.newBuffer([])

const has = Object.prototype.hasOwnProperty

interface Message {
  $unknowns?: Uint8Array[]
}

/** At most one of some fields, and the property that names it. */
export type OneOf<Name extends string, Fields> =
  | ({ [K in Name]?: undefined } & { [K in keyof Fields]?: null })
  | {
      [One in keyof Fields]: { [K in Name]?: One } & { [K in One]: Fields[K] } & {
        [K in Exclude<keyof Fields, One>]?: null
      }
    }[keyof Fields]

export function setFields(message: object, fields: object): void {
  for (const [key, value] of Object.entries(fields))
    if (value != null && key !== '__proto__') (message as Record<string, unknown>)[key] = value
}

/** Deleting a field that is absent would cost more than the read of a message. */
export function unset(message: object, field: string): void {
  if (has.call(message, field)) delete (message as Record<string, unknown>)[field]
}

/** Adds a property that names the field of a oneof that is present; a write to it removes all others. */
export function defineOneOf(prototype: object, name: string, fields: string[]): void {
  Object.defineProperty(prototype, name, {
    get: protobuf.util.oneOfGetter(fields),
    set(this: object, chosen: string) {
      for (const field of fields) if (field !== chosen) unset(this, field)
    },
  })
}

export function readerOf(bytes: Reader | Uint8Array): Reader {
  return bytes instanceof Reader ? bytes : Reader.create(bytes)
}

/** Messages inside messages are read and written up to a depth. */
export function checkDepth(depth: number): void {
  if (depth > Reader.recursionLimit) throw Error('max depth exceeded')
}

/**
 * Returns where a message of `length` bytes ends, of all the rest if absent. The reader ends there too, until it leaves the message.
 */
export function enter(reader: Reader, length: number | undefined): number {
  if (length === undefined) return reader.len
  const end = reader.pos + length
  if (end > reader.len) throw RangeError('index out of range')
  reader.len = end
  return end
}

/** Leaves a message: `end` is what `enter` returned, `outer` where the reader ended before. */
export function leave(reader: Reader, length: number | undefined, end: number, outer: number): void {
  if (length === undefined) return
  if (reader.pos !== end) throw RangeError('index out of range')
  reader.len = outer
}

/** Skips a field that the message does not have. The message keeps its bytes, unless the reader discards them. */
export function skipField(reader: Reader, message: Message, tag: number, depth: number, start: number): void {
  reader.skipType(tag & 7, depth, tag >>> 3)
  if (reader.discardUnknown) return
  protobuf.util.makeProp(message, '$unknowns', false)
  message.$unknowns ||= []
  message.$unknowns.push(reader.buf.subarray(start, reader.pos))
}

/** Reads an entry of a map from text to text. */
export function readEntry(reader: Reader, map: Record<string, string>, depth: number): void {
  const length = reader.size()
  const outer = reader.len
  const end = enter(reader, length)
  let key = ''
  let value = ''
  while (reader.pos < end) {
    const tag = reader.tag()
    if (tag === 10) key = reader.stringVerify()
    else if (tag === 18) value = reader.stringVerify()
    else reader.skipType(tag & 7, depth, tag >>> 3)
  }
  leave(reader, length, end, outer)
  if (key === '__proto__') protobuf.util.makeProp(map, key)
  map[key] = value
}

/** Reads a varint as a number: exact up to 2^53 - 1, a RangeError above. */
export function readUint64(reader: Reader): number {
  let value = 0
  let factor = 1
  let byte: number
  do {
    if (reader.pos >= reader.len) throw RangeError(`index out of range: ${reader.pos} + 1 > ${reader.len}`)
    byte = reader.buf[reader.pos++] ?? 0
    value += (byte & 127) * factor
    factor *= 128
    if (value > Number.MAX_SAFE_INTEGER) throw RangeError('uint64 above 2^53 - 1 is not supported')
  } while (byte > 127 && factor <= 2 ** 56)
  if (byte > 127) throw RangeError('uint64 of more than 9 bytes is not supported')
  return value
}
