import { FdbError } from '../errors.js'

/** Frames up to here cost less to decode than to look at. */
const SMALL_BYTES = 4 * 1024
/** The fields of an Envelope: one, and what a later version may put beside it. */
const MOST_BODIES = 16
/** The fields of a body: a list of 10 000 names, three times over. */
const MOST_FIELDS = 32_768
/** The field of a body that is a message, by the body's: a Position, times, what was read, connections. */
export const INNER: Readonly<Record<number, number>> = {
  1: 11,
  7: 3,
  9: 1,
  10: 1,
  11: 1,
  40: 2,
  41: 2,
  43: 5,
}
/** The fields of all of them: of 32,768 entries that were read, three each, and what a later version may put beside them. */
const MOST_INNER_FIELDS = 4 * MOST_FIELDS
/** Bodies with an Item, or up to 253: messages with messages of their own. */
export const WITH_ITEMS: readonly number[] = [5, 24]
const MOST_ITEMS_BYTES = 512 * 1024

const VARINT = 0
const FIXED64 = 1
const LENGTH = 2
const FIXED32 = 5

/**
 * Throws ERR_FDB_MESSAGE for bytes that are a few to send and many to decode: an Envelope of 16 MiB may hold 8 million
 * empty fields, each of which becomes an object, and stops the event loop for seconds. Looks at the first three levels.
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

/** How many fields there are. `each` is told of what has a length of its own. */
function walk(
  bytes: Uint8Array,
  from: number,
  to: number,
  most: number,
  each: ((field: number, from: number, to: number) => void) | null,
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
        if (length > to - at) throw tooCostly(bytes, 'a field that is cut')
        each?.(Math.floor(tag / 8), at, at + length)
        at += length
        break
      }
      default:
        throw tooCostly(bytes, `a field of kind ${tag % 8}`)
    }
  }
  return fields
}

function tooCostly(bytes: Uint8Array, what: string): FdbError {
  return new FdbError(
    'ERR_FDB_MESSAGE',
    `the peer sent a message of ${bytes.length} bytes with ${what}: it is faulty, or of a release that this one does not understand`,
    { details: { bytes: bytes.length } },
  )
}
