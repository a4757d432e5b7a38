import { nodeCrypto } from '../base/lazy.js'

/** A cipher suite of TLS 1.3 (RFC 8446, B.4). */
export interface Suite {
  /** For `sealKeyUpdate()` of the addon. */
  readonly number: number
  readonly cipher: 'aes-128-gcm' | 'aes-256-gcm' | 'chacha20-poly1305'
  readonly keyBytes: number
  readonly hash: 'sha256' | 'sha384'
  /** The length of the hash, and of each secret. */
  readonly secretBytes: number
}

const SUITES: Readonly<Record<string, Suite>> = {
  TLS_AES_128_GCM_SHA256: { number: 0, cipher: 'aes-128-gcm', keyBytes: 16, hash: 'sha256', secretBytes: 32 },
  TLS_AES_256_GCM_SHA384: { number: 1, cipher: 'aes-256-gcm', keyBytes: 32, hash: 'sha384', secretBytes: 48 },
  TLS_CHACHA20_POLY1305_SHA256: {
    number: 2,
    cipher: 'chacha20-poly1305',
    keyBytes: 32,
    hash: 'sha256',
    secretBytes: 32,
  },
}

export const IV_BYTES = 12

/** Returns undefined for a suite that this library does not know. */
export function suiteOf(name: string): Suite | undefined {
  return Object.hasOwn(SUITES, name) ? SUITES[name] : undefined
}

/** Encoded labels of HKDF-Expand-Label, by label and length: a process uses a few. */
const labels = new Map<string, Buffer>()

function encodedLabel(label: string, length: number): Buffer {
  const name = `${length} ${label}`
  let encoded = labels.get(name)
  if (encoded === undefined) {
    const text = Buffer.from(`tls13 ${label}`)
    encoded = Buffer.concat([Buffer.of(length >> 8, length & 255, text.length), text, Buffer.of(0, 1)])
    labels.set(name, encoded)
  }
  return encoded
}

/** HKDF-Expand-Label with an empty context (RFC 8446, 7.1). `length` is at most the length of the hash, so one block is enough. */
export function expandLabel({ hash }: Suite, secret: Uint8Array, label: string, length: number): Buffer {
  const block = nodeCrypto().createHmac(hash, secret).update(encodedLabel(label, length)).digest()
  return block.fill(0, length).subarray(0, length)
}

/** Returns the traffic secret that follows at a KeyUpdate (RFC 8446, 7.2). */
export function nextSecret(suite: Suite, secret: Uint8Array): Buffer {
  return expandLabel(suite, secret, 'traffic upd', suite.secretBytes)
}
