import { codec, defineSection } from '../../index.js'
import { fdbroker } from '../../proto/tls.js'
import type { CertificateMaterial } from './material.js'

/** A stored certificate, with fields of newer versions. Treat it as frozen. */
export type CertificateMessage = fdbroker.tls.Certificate

/** The section of all certificates, with their keys. */
export const CERTIFICATES = 'certificates'

/** No cache: handshakes use the table. */
export const certificatesSection = defineSection<CertificateMessage>({
  version: 1,
  codec: codec.protobuf<CertificateMessage, fdbroker.tls.Certificate.$Properties>(fdbroker.tls.Certificate),
  secret: true,
  cache: 0,
})

/** `file`: of the configuration file, replaced with it. `runtime`: made through the control socket, survives it. */
export type CertificateOrigin = 'file' | 'runtime'

export function certificateKey(origin: CertificateOrigin, name: string): string {
  return `${origin}:${name}`
}

/** null: a kind of key that this version does not know. */
export function parseCertificateKey(key: string): { origin: CertificateOrigin; name: string } | null {
  const colon = key.indexOf(':')
  const origin = key.slice(0, Math.max(0, colon))
  return origin === 'file' || origin === 'runtime' ? { origin, name: key.slice(colon + 1) } : null
}

export function certificateMessage(
  material: CertificateMaterial,
  stamp: { created: number; generation: number; position?: number },
): CertificateMessage {
  const { names, chain, key, keyKind, serial, fingerprint, notBefore, notAfter } = material
  const facts = { names, chain, key, keyKind, serial, fingerprint, notBefore, notAfter }
  return fdbroker.tls.Certificate.create({ ...facts, ...stamp })
}

export function materialOf(message: CertificateMessage): CertificateMaterial {
  const { names, chain, key, keyKind, serial, fingerprint, notBefore, notAfter } = message
  return { names, chain, key, keyKind, serial, fingerprint, notBefore, notAfter }
}
