import type { CertificateMaterial } from './material.js'

/** As it was checked, with every default filled in. All times in milliseconds. */
export interface TlsConfig {
  /** The first is the default: there is one if a listener has `tls`. */
  certificates: CertificateConfig[]
  minVersion: 'TLSv1.2' | 'TLSv1.3'
  rotateTicketKeys: number
}

/** Holds a private key: never log it. */
export interface CertificateConfig extends CertificateMaterial {
  files: { cert: string; key: string }
}

/** Of a proxy's configuration, what concerns TLS. */
export interface TlsSettings {
  readonly tls: TlsConfig
  readonly listeners: readonly { readonly tls: boolean }[]
  readonly timeouts: { readonly handshake: number }
}
