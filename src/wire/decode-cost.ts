import { FdbError } from '../errors.js'

/** Frames up to this size are cheaper to decode than to check. */
const SMALL_BYTES = 4 * 1024
/** Limit of the fields of an Envelope: this release sends one; later releases may add more. */
const MOST_BODIES = 16
/** Limit of the fields of a body: three times as many as a list of 10 000 names needs. */
const MOST_FIELDS = 32_768
/** The field numbers of the bodies that have a field with messages (a Position, times, entries, connections), and the number of that field. */
export const INNER: Readonly<Record<number, number>> = {
  1: 11,
  7: 3,
  9: 1,
  10: 1,
  11: 1,
  40: 2,
  41: 2,
  43: 5,
  74: 2,
}
/** Limit of the fields of all inner messages: 32,768 entries of three fields each, and one more field for later releases. */
const MOST_INNER_FIELDS = 4 * MOST_FIELDS
/** Field numbers of the bodies that hold up to 253 Items, which hold messages themselves. */
export const WITH_ITEMS: readonly number[] = [5, 24]
const MOST_ITEMS_BYTES = 512 * 1024

const VARINT = 0
const FIXED64 = 1
const LENGTH = 2
const FIXED32 = 5

/**
 * Throws ERR_FDB_MESSAGE for a message that is cheap to send and costly to decode: an Envelope of 16 MiB may hold 8 million
 * empty fields, each of which becomes an object, and would block the event loop for seconds. Checks the first three levels.
 */
export function checkDecodeCost(payload: Uint8Array): void {
  if (payload.length <= SMALL_BYTES) return
  let innerLeft = MOST_INNER_FIELDS
  walk(payload, 0, payload.length, MOST_BODIES, (body, from, to) => {
    if (WITH_ITEMS.includes(body) && to - from > MOST_ITEMS_BYTES)
      throw tooCostly(payload, `descriptions of ${to - from} bytes`)
    const inner = INNER[body]
    walk(
      payload,
      from,
      to,
      MOST_FIELDS,
      inner === undefined
        ? null
        : (field, from, to) => {
            if (field === inner) innerLeft -= walk(payload, from, to, innerLeft, null)
          },
    )
  })
}

/** Counts the fields and calls `onLengthDelimited` for each length-delimited one. Throws if there are more than `most` fields. */
function walk(
  bytes: Uint8Array,
  from: number,
  to: number,
  most: number,
  onLengthDelimited: ((field: number, from: number, to: number) => void) | null,
): number {
  let at = from
  let fields = 0
  const varint = (): number => {
    let value = 0
    for (let scale = 1; at < to; scale *= 128) {
      const byte = bytes[at++]!
      value += (byte & 127) * scale
      if (byte < 128) return value
      if (scale > 2 ** 56) break
    }
    throw tooCostly(bytes, 'a number without an end')
  }
  for (; at < to; fields++) {
    if (fields === most) throw tooCostly(bytes, `more than ${most} fields`)
    const tag = varint()
    switch (tag % 8) {
      case VARINT:
        varint()
        break
      case FIXED64:
        at += 8
        break
      case FIXED32:
        at += 4
        break
      case LENGTH: {
        const length = varint()
        if (length > to - at) throw tooCostly(bytes, 'a truncated field')
        onLengthDelimited?.(Math.floor(tag / 8), at, at + length)
        at += length
        break
      }
      default:
        throw tooCostly(bytes, `a field of wire type ${tag % 8}`)
    }
  }
  return fields
}

function tooCostly(bytes: Uint8Array, what: string): FdbError {
  return new FdbError(
    'ERR_FDB_MESSAGE',
    `the peer sent a message of ${bytes.length} bytes with ${what}: the peer is faulty, or runs a release that this one does not understand`,
    { details: { bytes: bytes.length } },
  )
}
