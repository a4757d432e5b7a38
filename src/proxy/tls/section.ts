import { fdbroker } from '../../proto/tls.js'
import type { Stamp } from '../entries/difference.js'
import { messageSection } from '../entries/message-section.js'
import type { CertificateMaterial } from './material.js'

/** A stored certificate, including fields of newer versions. Do not change it. */
export type CertificateMessage = fdbroker.tls.Certificate

export const CERTIFICATES = 'certificates'

/** Secret, because it contains private keys. */
export const certificatesSection = messageSection<CertificateMessage, fdbroker.tls.Certificate.$Properties>(
  fdbroker.tls.Certificate,
  { secret: true },
)

export function certificateMessage(
  material: CertificateMaterial,
  stamp: Stamp & { position?: number },
): CertificateMessage {
  return fdbroker.tls.Certificate.create({ ...materialOf(material), ...stamp })
}

/** Returns the material without the other fields of a stored certificate or of the configuration. */
export function materialOf(from: CertificateMaterial): CertificateMaterial {
  const { names, chain, key, keyKind, serial, fingerprint, notBefore, notAfter } = from
  return { names, chain, key, keyKind, serial, fingerprint, notBefore, notAfter }
}
