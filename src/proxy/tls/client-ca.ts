/** Certificates of clients: the key `listeners[].clientCa`. */
import { nodeCrypto, nodeTls } from '../../base/lazy.js'
import { shortJson } from '../../checks/place.js'
import { optional, required, shortFor } from '../../checks/shape.js'
import { boolean, refine } from '../../checks/values.js'
import { type PemFile, pemFile } from '../upstreams/tls-shape.js'

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

export const clientCaShape = {
  file: required(caFile, 'file with the CAs, PEM'),
  required: optional(boolean, true, 'whether clients without a certificate are refused'),
}

export interface ClientCa extends PemFile {
  readonly required: boolean
  /** Equal for equal CAs, and only for these. */
  readonly id: string
}

/** `clientCa: /a.crt` is short for `clientCa: { file: /a.crt }`. */
export const clientCa = refine(shortFor('file', clientCaShape), ({ file, required }): ClientCa => {
  const id = nodeCrypto().createHash('sha256').update(file.pem).digest('hex').slice(0, 16)
  return { ...file, required, id }
})

/** Tells connections apart by what their clients had to show. '': nothing. */
export function askedOf(clientCa: ClientCa | null): string {
  if (clientCa === null) return ''
  return clientCa.required ? clientCa.id : `${clientCa.id} optional`
}
