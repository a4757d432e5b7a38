import { isToken } from './bytes.js'

/** Ids of the fields that a relay must understand or must not forward; all others have the id `other`. Comparing ids is cheaper than comparing names. */
export const FieldId = {
  other: 0,
  host: 1,
  connection: 2,
  contentLength: 3,
  transferEncoding: 4,
  upgrade: 5,
  expect: 6,
  te: 7,
  trailer: 8,
  keepAlive: 9,
  proxyConnection: 10,
  proxyAuthenticate: 11,
  proxyAuthorization: 12,
  http2Settings: 13,
  lookalike: 14,
  maxForwards: 15,
  via: 16,
  date: 17,
} as const

export type FieldId = (typeof FieldId)[keyof typeof FieldId]

/** A lookalike has `_` instead of `-`: CGI and WSGI give a program both spellings as the same variable. */
const IDS: readonly (readonly [string, FieldId])[] = [
  ['host', FieldId.host],
  ['connection', FieldId.connection],
  ['content-length', FieldId.contentLength],
  ['transfer-encoding', FieldId.transferEncoding],
  ['upgrade', FieldId.upgrade],
  ['expect', FieldId.expect],
  ['te', FieldId.te],
  ['trailer', FieldId.trailer],
  ['keep-alive', FieldId.keepAlive],
  ['proxy-connection', FieldId.proxyConnection],
  ['proxy-authenticate', FieldId.proxyAuthenticate],
  ['proxy-authorization', FieldId.proxyAuthorization],
  ['http2-settings', FieldId.http2Settings],
  ['max-forwards', FieldId.maxForwards],
  ['via', FieldId.via],
  ['date', FieldId.date],
  ['content_length', FieldId.lookalike],
  ['transfer_encoding', FieldId.lookalike],
]

export const FIELD_NAMES: readonly string[] = IDS.map(([name]) => name)

const LENGTHS = 32

/** The known names by {@link candidateIndex}, so that most other names need no comparison. */
const CANDIDATES: ({ bytes: Uint8Array; id: FieldId }[] | null)[] = Array.from(
  { length: LENGTHS * 32 },
  () => null,
)
for (const [name, id] of IDS) {
  const bytes = Buffer.from(name, 'latin1')
  ;(CANDIDATES[candidateIndex(bytes[0]!, bytes.length)] ??= []).push({ bytes, id })
}

/** The index is the same for a capital and a small first letter. */
function candidateIndex(first: number, length: number): number {
  return length * 32 + (first & 31)
}

/** Returns the id of the field name `bytes[start, end)`, which must be a token. */
export function fieldId(bytes: Uint8Array, start: number, end: number): FieldId {
  const length = end - start
  if (length >= LENGTHS) return FieldId.other
  const candidates = CANDIDATES[candidateIndex(bytes[start]!, length)]!
  if (candidates === null) return FieldId.other
  for (let c = 0; c < candidates.length; c++) {
    const { bytes: name, id } = candidates[c]!
    if (isToken(bytes, start, end, name)) return id
  }
  return FieldId.other
}

/** By field id: 1 for a field that a relay must not forward (RFC 9110, 7.6.1). Content-Length, Transfer-Encoding and Trailer are not included. */
export const HOP_BY_HOP = new Uint8Array(32)
for (const id of [
  FieldId.connection,
  FieldId.upgrade,
  FieldId.te,
  FieldId.keepAlive,
  FieldId.proxyConnection,
  FieldId.proxyAuthenticate,
  FieldId.proxyAuthorization,
  FieldId.http2Settings,
]) {
  HOP_BY_HOP[id] = 1
}
