import type { X509Certificate } from 'node:crypto'
import type { TLSSocket } from 'node:tls'
import { nodeCrypto } from '../base/lazy.js'
import { CERTIFICATE_FIELDS } from '../http1/index.js'
import type { PositionRecord } from '../tls13/position-record.js'

type CertificateFacts = Pick<
  X509Certificate,
  'subject' | 'issuer' | 'serialNumber' | 'subjectAltName' | 'fingerprint256'
>

const [VERIFIED, SUBJECT, ISSUER, SERIAL, SAN, FINGERPRINT] = CERTIFICATE_FIELDS

/** Returns the certificate that the client of a connection has shown, in this connection or in the session that it resumes, and Node has verified. */
export function certificateOf(socket: TLSSocket): X509Certificate | undefined {
  // Node also reports a client without a certificate as authorized if it resumes its session.
  return socket.authorized ? inTime(socket.getPeerX509Certificate()) : undefined
}

/** As {@link certificateOf}, for a connection that has moved here. */
export function movedCertificate({ authorized, certificates }: PositionRecord): X509Certificate | undefined {
  const [own] = certificates ?? []
  return authorized && own !== undefined ? inTime(new (nodeCrypto().X509Certificate)(own)) : undefined
}

/** A session can last longer than the certificate that has begun it. */
function inTime(certificate: X509Certificate | undefined): X509Certificate | undefined {
  return certificate !== undefined && Date.parse(certificate.validTo) >= Date.now() ? certificate : undefined
}

/** Returns the lines of a request that tell the server about the client's certificate. */
export function certificateLines(certificate: CertificateFacts | undefined): Uint8Array {
  const line = (name: string, value: string) => (value === '' ? '' : `${name}: ${value}\r\n`)
  let lines = line(VERIFIED, String(certificate !== undefined))
  if (certificate !== undefined) {
    lines += line(SUBJECT, nameText(certificate.subject))
    lines += line(ISSUER, nameText(certificate.issuer))
    lines += line(SERIAL, certificate.serialNumber)
    lines += line(SAN, visible(certificate.subjectAltName ?? ''))
    lines += line(FINGERPRINT, certificate.fingerprint256.replaceAll(':', '').toLowerCase())
  }
  return Buffer.from(lines, 'latin1')
}

/** Returns a name as RFC 4514 writes it (`CN=alice,O=Example`). Node gives its parts from the last one on, each in a line, with their escapes. */
function nameText(name: string | undefined): string {
  return visible(name?.split('\n').reverse().join(',') ?? '')
}

/** Escapes all but visible ASCII as the bytes of UTF-8 (RFC 4514, 2.4), and blanks at the ends. */
function visible(text: string): string {
  return text.replace(/[^\x20-\x7e]|^ | $/gu, character =>
    [...Buffer.from(character)].map(byte => `\\${byte.toString(16).toUpperCase().padStart(2, '0')}`).join(''),
  )
}
