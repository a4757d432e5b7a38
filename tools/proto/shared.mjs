// @ts-check
// What the code of each message has in common: the generator writes it out in every one of them, adjust.mjs calls it here.
// It is copied to src/proto/shared.js, beside the generated files.
import protobuf from 'protobufjs/minimal.js'

const { Reader, Writer, util } = protobuf

/** Called on a message: whether a field is its own, and not its type's. `has.call(…)` is what V8 makes one look of. */
export const has = Object.prototype.hasOwnProperty

/** @param {Record<string, unknown>} message @param {Record<string, unknown>} fields */
export function setFields(message, fields) {
  for (const key of Object.keys(fields))
    if (fields[key] != null && key !== '__proto__') message[key] = fields[key]
}

/** @param {protobuf.Writer | undefined} writer */
export function writerOf(writer) {
  return writer || Writer.create()
}

/** @param {protobuf.Reader | Uint8Array} reader */
export function readerOf(reader) {
  return reader instanceof Reader ? reader : Reader.create(reader)
}

/** How deep a message lies in others that are written. @param {number | undefined} depth */
export function writtenDepth(depth) {
  if (depth === undefined) return 0
  if (depth > util.recursionLimit) throw Error('max depth exceeded')
  return depth
}

/** How deep a message lies in others that are read. @param {number | undefined} depth */
export function readDepth(depth) {
  if (depth === undefined) return 0
  if (depth > Reader.recursionLimit) throw Error('max depth exceeded')
  return depth
}

/**
 * Where a message of `length` bytes ends: the reader ends there, too, until it leaves the message.
 *
 * @param {protobuf.Reader} reader
 * @param {number | undefined} length the rest, if not given
 */
export function enter(reader, length) {
  if (length === undefined) return reader.len
  const end = reader.pos + length
  if (end > reader.len) throw RangeError('index out of range')
  reader.len = end
  return end
}

/**
 * @param {protobuf.Reader} reader
 * @param {number | undefined} length as for `enter`
 * @param {number} end what `enter` said
 * @param {number} outer where the reader ended before
 * @param {number | undefined} group the tag that a group ends with, while it was not read
 */
export function leave(reader, length, end, outer, group) {
  if (length !== undefined) {
    if (reader.pos !== end) throw RangeError('index out of range')
    reader.len = outer
  }
  if (group !== undefined) throw Error('missing end group')
}

/**
 * Reads past a field that the message does not have, and keeps its bytes if the reader is to.
 *
 * @param {protobuf.Reader} reader
 * @param {{ $unknowns?: Uint8Array[] }} message
 * @param {number} wireType
 * @param {number} depth
 * @param {number} field
 * @param {number} start
 */
export function skipField(reader, message, wireType, depth, field, start) {
  reader.skipType(wireType, depth, field)
  if (reader.discardUnknown) return
  util.makeProp(message, '$unknowns', false)
  message.$unknowns ||= []
  message.$unknowns.push(reader.raw(start, reader.pos))
}

/** @param {{ $unknowns?: Uint8Array[] }} message @param {protobuf.Writer} writer */
export function writeUnknowns(message, writer) {
  if (!has.call(message, '$unknowns')) return
  for (const bytes of message.$unknowns ?? []) writer.raw(bytes)
}

/**
 * What makes one of several fields the one that counts. Deleting a field that is not there costs more than reading the message, and of an envelope it
 * would be fifty.
 *
 * @param {readonly string[]} fields
 */
export function oneOfSetter(fields) {
  /** @this {Record<string, unknown>} @param {string} name */
  return function (name) {
    for (const field of fields) if (field !== name && has.call(this, field)) delete this[field]
  }
}

/** A varint as a number: exact up to 2^53 - 1, a RangeError above. @param {protobuf.Reader} reader */
export function uint64(reader) {
  let value = 0
  let factor = 1
  let byte
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
