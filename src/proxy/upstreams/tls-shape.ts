/** Every key of `upstreams.NAME.tls` in the configuration file. */
import { isIP } from 'node:net'
import type { SecureContext } from 'node:tls'
import { nodeCrypto, nodeTls } from '../../base/lazy.js'
import { readText } from '../../checks/files.js'
import { type Place, shortJson } from '../../checks/place.js'
import { absent, map, optional } from '../../checks/shape.js'
import {
  absolutePath,
  boolean,
  type Checked,
  InvalidValue,
  refine,
  text,
  type ValueCheck,
} from '../../checks/values.js'
import { isName } from './address.js'

/** A file of PEM and its contents. */
export interface PemFile {
  readonly path: string
  readonly pem: string
}

export const pemFile: ValueCheck<PemFile, string> = refine(absolutePath, (path, place) => {
  const pem = readText(path, place)
  return pem === undefined ? undefined : { path, pem }
})

function serverName(given: string): string | InvalidValue {
  const host = given.toLowerCase()
  return isIP(host) !== 0 || isName(host)
    ? host
    : new InvalidValue(`${shortJson(given)} is not the name of a server (app.internal)`)
}

export const serverTlsShape = {
  ca: absent(
    pemFile,
    null,
    'file with the CAs that may have issued the servers’ certificates, PEM; default: Node’s',
  ),
  name: absent(
    text('the name of a server', serverName),
    null,
    'name that the certificates must have, and that the servers are asked for (SNI); default: the host of the address',
  ),
  cert: absent(pemFile, null, 'file with the certificate that the proxy shows, PEM'),
  key: absent(pemFile, null, 'file with its private key, PEM'),
  verify: optional(boolean, true, 'whether a server’s certificate must be valid'),
}
const tlsMap = map(serverTlsShape)

/** Contains a private key: never log it. */
export interface ServerTlsConfig extends Checked<typeof tlsMap> {}

export const NO_TLS_SETTINGS: ServerTlsConfig = { ca: null, name: null, cert: null, key: null, verify: true }

function usable(given: ServerTlsConfig, place: Place): ServerTlsConfig | undefined {
  const { ca, cert, key } = given
  if ((cert === null) !== (key === null)) return place.wrong('give both "cert" and "key", or neither')
  if (ca !== null && !ca.pem.includes('-----BEGIN CERTIFICATE-----'))
    return place.at('ca').wrong(`${shortJson(ca.path)}: there is no certificate in PEM`)
  try {
    void contextOf(given)
    return given
  } catch (error) {
    return place.wrong(`OpenSSL refuses the certificates or the key (${(error as Error).message})`)
  }
}

export const serverTls = refine(tlsMap, usable)

export function contextOf({ ca, cert, key }: ServerTlsConfig): SecureContext {
  return nodeTls().createSecureContext({
    ...(ca !== null && { ca: ca.pem }),
    ...(cert !== null && { cert: cert.pem }),
    ...(key !== null && { key: key.pem }),
  })
}

/** A key of its settings and files. */
export function tlsId({ ca, cert, key, name, verify }: ServerTlsConfig): string {
  const all = JSON.stringify([ca?.pem, cert?.pem, key?.pem, name, verify])
  return nodeCrypto().createHash('sha256').update(all).digest('hex')
}
