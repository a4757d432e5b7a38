import { isBoxedPrimitive } from 'node:util/types'

/**
 * Returns a copy of what an application sends, as other processes can store it and a client of them gets it as from this one: objects as JSON would have them, but bytes,
 * dates and numbers as they are. A later change of the application's objects does not change it.
 */
export function plainCopy(value: unknown): unknown {
  if (typeof value === 'string') return wellFormed(value)
  if (typeof value !== 'object' || value === null) return isData(value) ? value : null
  if (value instanceof ArrayBuffer) return Buffer.from(value.slice(0))
  if (ArrayBuffer.isView(value))
    return Buffer.from(Buffer.from(value.buffer, value.byteOffset, value.byteLength))
  if (value instanceof Date) return new Date(value)
  const { toJSON } = value as { toJSON?: unknown }
  if (typeof toJSON === 'function') return plainCopy(toJSON.call(value))
  if (isBoxedPrimitive(value)) return plainCopy(value.valueOf())
  if (Array.isArray(value)) return Array.from(value, plainCopy)
  const fields = Object.entries(value).filter(([, field]) => isData(field))
  return Object.fromEntries(fields.map(([name, field]) => [wellFormed(name), plainCopy(field)]))
}

/** Half a surrogate pair, which UTF-8 cannot carry. */
const HALF_PAIR = /\p{Surrogate}/u

function wellFormed(text: string): string {
  return HALF_PAIR.test(text) ? Buffer.from(text).toString() : text
}

/** Whether JSON has it in an object. */
function isData(value: unknown): boolean {
  return !['undefined', 'function', 'symbol'].includes(typeof value)
}
