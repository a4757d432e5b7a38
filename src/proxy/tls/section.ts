import { codec, defineSection } from '../../index.js'
import { fdbroker } from '../../proto/tls.js'
import type { CertificateMaterial } from './material.js'

/** A stored certificate, including fields of newer versions. Do not change it. */
export type CertificateMessage = fdbroker.tls.Certificate

export const CERTIFICATES = 'certificates'

/** Secret, because it contains private keys. Without a cache, because handshakes use the CertificateTable. */
export const certificatesSection = defineSection<CertificateMessage>({
  version: 1,
  codec: codec.protobuf<CertificateMessage, fdbroker.tls.Certificate.$Properties>(fdbroker.tls.Certificate),
  secret: true,
  cache: 0,
})

/** `file`: from the configuration file, and replaced with it. `runtime`: added through the control socket; a new file does not remove it. */
export type CertificateOrigin = 'file' | 'runtime'

export function certificateKey(origin: CertificateOrigin, name: string): string {
  return `${origin}:${name}`
}

/** Returns null for a kind of key that this version does not know. */
export function parseCertificateKey(key: string): { origin: CertificateOrigin; name: string } | null {
  const colon = key.indexOf(':')
  const origin = key.slice(0, Math.max(0, colon))
  return origin === 'file' || origin === 'runtime' ? { origin, name: key.slice(colon + 1) } : null
}

export function certificateMessage(
  material: CertificateMaterial,
  stamp: { created: number; generation: number; position?: number },
): CertificateMessage {
  return fdbroker.tls.Certificate.create({ ...materialOf(material), ...stamp })
}

/** Returns the material without the other fields of a stored certificate or of the configuration. */
export function materialOf(from: CertificateMaterial): CertificateMaterial {
  const { names, chain, key, keyKind, serial, fingerprint, notBefore, notAfter } = from
  return { names, chain, key, keyKind, serial, fingerprint, notBefore, notAfter }
}
