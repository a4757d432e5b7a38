import type { X509Certificate } from 'node:crypto'
import { isIPv4 } from 'node:net'
import { nodeCrypto, nodeTls } from '../../base/lazy.js'
import { shortJson } from '../../checks/place.js'
import { InvalidValue } from '../../checks/values.js'
import { canonicalHost } from '../routes/host.js'
import type { ClientCa } from './client-ca.js'

/** A checked certificate with its secret key, as plain data. */
export interface CertificateMaterial {
  /** Canonical host names: `example.com`, `*.example.com`. A certificate without names serves only as the default. */
  names: string[]
  /** PEM: the certificate, then those of its issuers. */
  chain: string
  /** Unencrypted PEM. */
  key: string
  /** `rsa`, `ec`, `ed25519`. */
  keyKind: string
  /** Hexadecimal. */
  serial: string
  /** SHA-256 of the certificate, hexadecimal. */
  fingerprint: string
  /** Milliseconds since 1970. */
  notBefore: number
  notAfter: number
}

/** Describes which text is wrong and why, without showing it. */
export class WrongMaterial {
  readonly at: 'cert' | 'key'
  readonly why: string

  constructor(at: 'cert' | 'key', why: string) {
    this.at = at
    this.why = why
  }
}

/** Checks a certificate and its key. `names`, unless null, replaces the certificate's own names. */
export function readMaterial(
  chain: string,
  key: string,
  names: readonly string[] | null,
): CertificateMaterial | WrongMaterial {
  let leaf: X509Certificate
  try {
    leaf = new (nodeCrypto().X509Certificate)(chain)
  } catch {
    return new WrongMaterial('cert', 'there is no certificate in PEM (-----BEGIN CERTIFICATE-----)')
  }
  if (/^-----BEGIN ENCRYPTED|^Proc-Type:.*ENCRYPTED/m.test(key)) {
    return new WrongMaterial('key', 'the key is encrypted; give one without a passphrase')
  }
  let keyKind: string
  try {
    const given = nodeCrypto().createPrivateKey(key)
    keyKind = given.asymmetricKeyType ?? 'unknown'
    if (!leaf.checkPrivateKey(given)) {
      return new WrongMaterial('key', `the key does not belong to the certificate for ${subject(leaf)}`)
    }
  } catch {
    return new WrongMaterial('key', 'there is no private key in PEM (-----BEGIN PRIVATE KEY-----)')
  }
  try {
    nodeTls().createSecureContext({ cert: chain, key })
  } catch (error) {
    return new WrongMaterial('cert', `OpenSSL refuses the certificate (${reason(error)})`)
  }
  return {
    names: names === null ? namesOf(leaf) : [...names],
    chain,
    key,
    keyKind,
    serial: leaf.serialNumber,
    fingerprint: leaf.fingerprint256.replaceAll(':', '').toLowerCase(),
    notBefore: Date.parse(leaf.validFrom),
    notAfter: Date.parse(leaf.validTo),
  }
}

/** Returns why clients refuse the certificate at the time `now`, or null. */
export function validityProblem({ notBefore, notAfter }: CertificateMaterial, now: number): string | null {
  if (now > notAfter) return `it expired on ${new Date(notAfter).toISOString()}`
  return now < notBefore ? `it is valid only from ${new Date(notBefore).toISOString()} on` : null
}

/** Omits names that clients cannot request, for example with invalid characters. */
function namesOf(leaf: X509Certificate): string[] {
  const names = new Set<string>()
  for (const entry of (leaf.subjectAltName ?? '').split(', ')) {
    if (!entry.startsWith('DNS:')) continue
    const name = canonicalName(entry.slice('DNS:'.length))
    if (typeof name === 'string') names.add(name)
  }
  return [...names]
}

function subject(leaf: X509Certificate): string {
  return shortJson(leaf.subject?.replaceAll('\n', ', ') ?? '')
}

function reason(error: unknown): string {
  const { reason, message } = error as { reason?: string; message?: string }
  return reason ?? message ?? String(error)
}

/** The checked settings with all defaults. Times in milliseconds. */
export interface TlsConfig {
  /** The first certificate is the default. The list is not empty if a listener has `tls`. */
  certificates: CertificateConfig[]
  minVersion: 'TLSv1.2' | 'TLSv1.3'
  move: 'off' | 'on'
  rotateTicketKeys: number
}

/** Contains a private key: never log it. */
export interface CertificateConfig extends CertificateMaterial {
  files: { cert: string; key: string }
}

export interface TlsSettings {
  readonly tls: TlsConfig
  readonly listeners: readonly {
    readonly name: string
    readonly tls: boolean
    readonly clientCa: ClientCa | null
  }[]
  readonly timeouts: { readonly handshake: number }
}

/** Returns the canonical spelling of a certificate's name. */
export function canonicalName(given: string): string | InvalidValue {
  const host = given === '*' ? new InvalidValue('') : canonicalHost(given)
  if (typeof host === 'string' && !host.startsWith('[') && !isIPv4(host)) return host
  if (typeof host !== 'string' && host.why !== '') return host
  return new InvalidValue(
    `${shortJson(given)} is not a host name that clients can request (app.example.com, *.example.com)`,
  )
}

/** Returns the names to look up for a server name, the most specific first. */
export function lookupNames(serverName: string): [exact: string, wildcard: string] {
  const exact = serverName.toLowerCase()
  return [exact, `*${exact.slice(Math.max(0, exact.indexOf('.')))}`]
}
