import type { TlsFailure } from './destination.js'

const FAILURES: Readonly<Record<string, TlsFailure>> = {
  CERT_HAS_EXPIRED: 'certificate-expired',
  CERT_NOT_YET_VALID: 'certificate-not-yet-valid',
  ERR_TLS_CERT_ALTNAME_INVALID: 'certificate-name',
  HOSTNAME_MISMATCH: 'certificate-name',
}
/** OpenSSL's names of certificates that no known CA has issued. */
const UNTRUSTED =
  /^(DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_\w+|CERT_\w+|INVALID_CA|INVALID_PURPOSE|PATH_LENGTH_EXCEEDED)$/
/** The server's alerts about the certificate of its client, or because it got none. */
const REFUSED = /^ERR_SSL_\w+_ALERT_(\w*CERTIFICATE\w*|UNKNOWN_CA)$/

/** Returns the failure of TLS that an error of a connection stands for, or null. */
export function tlsFailureOf(error: Error | null): TlsFailure | null {
  const { code = '' } = (error ?? {}) as NodeJS.ErrnoException
  const known = FAILURES[code]
  if (known !== undefined) return known
  if (UNTRUSTED.test(code)) return 'certificate-untrusted'
  if (REFUSED.test(code)) return 'client-certificate-refused'
  return /^(ERR_SSL_|ERR_TLS_|EPROTO$)/.test(code) ? 'tls-failed' : null
}
