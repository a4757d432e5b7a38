/**
 * Freezes a value and all that it holds; false: it holds something that cannot be frozen (bytes, a Date, a Map), and some of it
 * is frozen now.
 */
export function deepFreeze(value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return typeof value !== 'function'
  if (Object.isFrozen(value)) return true
  if (ArrayBuffer.isView(value) || value instanceof ArrayBuffer) return false
  if (value instanceof Date || value instanceof Map || value instanceof Set) return false
  Object.freeze(value)
  let all = true
  for (const one of Object.values(value)) all = deepFreeze(one) && all
  return all
}
