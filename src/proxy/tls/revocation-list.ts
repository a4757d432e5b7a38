import { nodeCrypto } from '../../base/lazy.js'

/** A list of revoked certificates (RFC 5280, 5.1), of a file with one or more of them in PEM. */
export interface RevocationList {
  readonly pem: string
  /** See {@link nameKey}. */
  readonly issuer: string
  /** Milliseconds since 1970. */
  readonly from: number
  /** When its CA publishes the next one at the latest; Infinity: the list does not say. */
  readonly until: number
  /** Stands for the revoked certificates: equal if they are. */
  readonly revoked: string
}

const BLOCK = /-----BEGIN X509 CRL-----([^-]*)-----END X509 CRL-----/g
const INTEGER = 0x02
const SEQUENCE = 0x30
const UTC_TIME = 0x17
const GENERALIZED_TIME = 0x18
const VERSION_OF_CERTIFICATE = 0xa0

/** Throws a RangeError if a block is not a list. */
export function revocationLists(pem: string): RevocationList[] {
  return [...pem.matchAll(BLOCK)].map(([pem, base64 = '']) => ({
    pem,
    ...read(Buffer.from(base64, 'base64')),
  }))
}

function read(bytes: Buffer): Omit<RevocationList, 'pem'> {
  const list = new DerReader(
    new DerReader(new DerReader(bytes).next(SEQUENCE).content).next(SEQUENCE).content,
  )
  if (list.tag === INTEGER) list.next()
  list.next(SEQUENCE)
  const issuer = nameKey(list.next(SEQUENCE).content)
  const from = timeOf(list.next())
  const until = isTime(list.tag) ? timeOf(list.next()) : Number.POSITIVE_INFINITY
  const entries = list.tag === SEQUENCE ? list.next().content : ''
  return { issuer, from, until, revoked: nodeCrypto().createHash('sha256').update(entries).digest('hex') }
}

/** Returns the subject of a certificate, as {@link nameKey}. `bytes`: its DER. */
export function subjectKey(bytes: Buffer): string {
  const certificate = new DerReader(
    new DerReader(new DerReader(bytes).next(SEQUENCE).content).next(SEQUENCE).content,
  )
  if (certificate.tag === VERSION_OF_CERTIFICATE) certificate.next()
  // Serial number, algorithm, issuer, validity.
  for (let skipped = 0; skipped < 4; skipped++) certificate.next()
  return nameKey(certificate.next(SEQUENCE).content)
}

/** Returns equal texts for equal names, whatever kinds of strings and letters encode them. */
function nameKey(bytes: Buffer): string {
  const parts: string[] = []
  const name = new DerReader(bytes)
  while (name.left > 0) {
    const set = new DerReader(name.next().content)
    while (set.left > 0) {
      const attribute = new DerReader(set.next(SEQUENCE).content)
      const type = attribute.next().content.toString('hex')
      parts.push(`${type}=${attribute.next().content.toString('latin1').trim().toLowerCase()}`)
    }
  }
  return JSON.stringify(parts)
}

function isTime(tag: number): boolean {
  return tag === UTC_TIME || tag === GENERALIZED_TIME
}

function timeOf({ tag, content }: DerElement): number {
  const text = content.toString('latin1')
  // A year of two digits is one from 1950 to 2049.
  const full = tag === UTC_TIME ? `${text < '50' ? '20' : '19'}${text}` : text
  const [, ...parts] = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(full) ?? []
  if (!isTime(tag) || parts.length === 0) throw new RangeError('it has a wrong time')
  const [year, month, day, hour, minute, second] = parts.map(Number)
  return Date.UTC(year!, month! - 1, day!, hour!, minute!, second!)
}

interface DerElement {
  readonly tag: number
  readonly content: Buffer
}

/** Reads elements of DER, one after the other. */
class DerReader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get left(): number {
    return this.#bytes.length - this.#at
  }

  /** The tag of the next element; -1 at the end. */
  get tag(): number {
    return this.#bytes[this.#at] ?? -1
  }

  /** Throws a RangeError if the element is incomplete, or has another tag than the `wanted`. */
  next(wanted?: number): DerElement {
    const { tag } = this
    const first = this.#bytes.readUInt8(this.#at + 1)
    const more = first < 0x80 ? 0 : first & 0x7f
    const start = this.#at + 2 + more
    const length = more === 0 ? first : this.#bytes.readUIntBE(this.#at + 2, more)
    if (start + length > this.#bytes.length) throw new RangeError('it is cut short')
    if (wanted !== undefined && tag !== wanted)
      throw new RangeError(`it has the tag ${tag} instead of ${wanted}`)
    this.#at = start + length
    return { tag, content: this.#bytes.subarray(start, start + length) }
  }
}
