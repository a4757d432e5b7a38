/** Certificates of clients: the key `listeners[].clientCa`. */
import { nodeCrypto, nodeTls } from '../../base/lazy.js'
import { type Place, shortJson } from '../../checks/place.js'
import { optional, required, shortFor } from '../../checks/shape.js'
import { boolean, list, refine } from '../../checks/values.js'
import { type PemFile, pemFile } from '../upstreams/tls-shape.js'
import { type RevocationList, revocationLists, subjectKey } from './revocation-list.js'

const CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g

const caFile = refine(pemFile, (file, place): PemFile | undefined => {
  const refuse = (why: string) => place.wrong(`${shortJson(file.path)}: ${why}`)
  if (!file.pem.includes('-----BEGIN CERTIFICATE-----')) return refuse('there is no certificate in PEM')
  try {
    nodeTls().createSecureContext({ ca: file.pem })
    return file
  } catch (error) {
    return refuse(`OpenSSL refuses the certificates (${(error as Error).message})`)
  }
})

/** A file of PEM, and the lists in it. */
interface ListFile extends PemFile {
  readonly lists: readonly RevocationList[]
}

const listFile = refine(pemFile, (file, place): ListFile | undefined => {
  const refuse = (why: string) => place.wrong(`${shortJson(file.path)}: ${why}`)
  let lists: RevocationList[]
  try {
    lists = revocationLists(file.pem)
    nodeTls().createSecureContext({ crl: lists.map(({ pem }) => pem) })
  } catch (error) {
    return refuse(`it has no valid list of revoked certificates (${(error as Error).message})`)
  }
  if (lists.length === 0)
    return refuse('there is no list of revoked certificates in PEM (-----BEGIN X509 CRL-----)')
  return { ...file, lists }
})

/** Returns a warning for each list that is not in force at the time `now`: OpenSSL refuses all clients of its CA. */
export function listWarnings({ revoked }: ClientCa, now: number): { path: string; text: string }[] {
  return revoked.flatMap(({ path, lists }) =>
    lists.flatMap(({ from, until }) => {
      const why = whyOutOfForce(from, until, now)
      if (why === null) return []
      const text = `clients of its CA will be refused: the list of revoked certificates ${why}; get another one from the CA`
      return [{ path, text }]
    }),
  )
}

function whyOutOfForce(from: number, until: number, now: number): string | null {
  if (now > until) return `expired on ${new Date(until).toISOString()}`
  return now < from ? `is valid only from ${new Date(from).toISOString()} on` : null
}

export const clientCaShape = {
  file: required(caFile, 'file with the CAs, PEM'),
  required: optional(boolean, true, 'whether clients without a certificate are refused'),
  revoked: optional(
    list(listFile, { most: 100 }),
    [],
    'files with the [lists of revoked certificates](tls.md#revoked-certificates) (CRL) of all these CAs, PEM',
  ),
}

export interface ClientCa extends PemFile {
  readonly required: boolean
  readonly revoked: readonly ListFile[]
  /** Equal for equal CAs that have revoked the same certificates, and only for these. */
  readonly id: string
  /** Equal for equal contents of all files, and only for these. */
  readonly contents: string
}

/** `clientCa: /a.crt` is short for `clientCa: { file: /a.crt }`. */
export const clientCa = refine(
  shortFor('file', clientCaShape),
  ({ file, required, revoked }, place): ClientCa | undefined => {
    const lists = revoked.flatMap(({ lists }) => lists)
    if (revoked.length > 0 && !haveLists(file, lists, place)) return undefined
    const entries = lists.map(({ issuer, revoked }) => `${issuer}\n${revoked}`).sort()
    const id = lists.length === 0 ? digest(file.pem) : digest([file.pem, ...entries].join('\n'))
    const contents = lists.length === 0 ? id : digest([file.pem, ...revoked.map(({ pem }) => pem)].join('\n'))
    return { ...file, required, revoked, id, contents }
  },
)

/** Reports a CA of the file without a list. */
function haveLists({ pem, path }: PemFile, lists: readonly RevocationList[], place: Place): boolean {
  for (const [text] of pem.matchAll(CERTIFICATE)) {
    const { raw, subject } = new (nodeCrypto().X509Certificate)(text)
    const key = subjectKey(raw)
    if (lists.some(({ issuer }) => issuer === key)) continue
    const name = shortJson(subject?.replaceAll('\n', ', ') ?? '')
    place
      .at('revoked')
      .wrong(`${name} of ${shortJson(path)} has no list, so all its clients would be refused; add its list`)
    return false
  }
  return true
}

function digest(text: string): string {
  return nodeCrypto().createHash('sha256').update(text).digest('hex').slice(0, 16)
}

/** Tells connections apart by the certificates that their clients had to show. '': none. */
export function askedOf(clientCa: ClientCa | null): string {
  if (clientCa === null) return ''
  return clientCa.required ? clientCa.id : `${clientCa.id} optional`
}

/** Returns the options of Node's `tls` for the certificates of clients. */
export function caOptions({ pem, revoked }: ClientCa): { ca: string; crl?: string[] } {
  if (revoked.length === 0) return { ca: pem }
  return { ca: pem, crl: revoked.flatMap(({ lists }) => lists.map(list => list.pem)) }
}
