import { types } from 'node:util'

/** What a format has beside objects, arrays, strings, booleans, finite numbers and null. */
export interface Format {
  /** Of undefined inside an object a format without it keeps no trace, which reads the same; elsewhere it would become null. */
  undefined: boolean
  nonFinite: boolean
  bigint: boolean
  bytes: boolean
  dates: boolean
}

export const JSON_FORMAT: Format = {
  undefined: false,
  nonFinite: false,
  bigint: false,
  bytes: false,
  dates: false,
}
export const MSGPACK_FORMAT: Format = {
  undefined: true,
  nonFinite: true,
  bigint: true,
  bytes: true,
  dates: true,
}

/**
 * Throws a TypeError that says what in a value would come back as something else, and where it is. An object with a `toJSON` says
 * itself what it is written as (a Date a text, for JSON). The value has no cycles: the encoder has refused them.
 */
export function checkPlain(value: unknown, format: Format): void {
  const found = strangerIn(value, format)
  if (found === null) return
  throw new TypeError(`${found.path === '' ? 'it is' : `its${found.path} is`} ${found.what}`)
}

interface Stranger {
  what: string
  /** As in the source text: `.items[3]`. */
  path: string
}

function strangerIn(value: unknown, format: Format): Stranger | null {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return null
    case 'number':
      return format.nonFinite || Number.isFinite(value) ? null : { what: String(value), path: '' }
    case 'bigint':
      return format.bigint ? null : { what: 'a bigint', path: '' }
    case 'object':
      return value === null ? null : strangerInObject(value, format)
    default:
      return { what: typeof value === 'undefined' ? 'undefined' : `a ${typeof value}`, path: '' }
  }
}

function strangerInObject(value: object, format: Format): Stranger | null {
  if (Array.isArray(value)) {
    for (let i = 0; i < value.length; i++) {
      const one: unknown = value[i]
      if (one === undefined && format.undefined) continue
      const found = strangerIn(one, format)
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
    const found = strangerIn(one, format)
    if (found && Object.hasOwn(value, key)) return { what: found.what, path: `.${key}${found.path}` }
  }
  return null
}

/** What an object is whose fields do not say what it holds; empty: the format takes it; null: its fields do. */
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
