import { nodeCrypto } from '../base/lazy.js'
import { sealKeyUpdate } from '../kernel/index.js'
import { expandLabel, IV_BYTES, nextSecret, type Suite } from './key-schedule.js'

export const TAG_BYTES = 16
export const HEADER_BYTES = 5
const HANDSHAKE = 22
const APPLICATION_DATA = 23
/** A KeyUpdate that asks for none (RFC 8446, 4.6.3). */
const KEY_UPDATE = Buffer.of(24, 0, 0, 1, 0)
/** A record with it. */
const UPDATE_BYTES = HEADER_BYTES + KEY_UPDATE.length + 1 + TAG_BYTES
const TWO_TO_32 = 2 ** 32
const MOST_COPIED = 2_048
const NOTHING = Buffer.alloc(0)
const TAG = { authTagLength: TAG_BYTES }
/** OpenSSL copies it, so that all directions share one. */
const NONCE = Buffer.alloc(IV_BYTES)

/** Protects the records of one direction (RFC 8446, 5.2). Each record has the next sequence number, so that no nonce is used twice with a key. */
export class Protection {
  readonly #suite: Suite
  #secret: Buffer
  /** Made for the first record, or null: of most connections that move, one direction or both have none before the next move. */
  #keys: { readonly key: Buffer; readonly iv: Buffer } | null = null
  #sequence: number

  /** Copies `secret`. `sequence` is the number of the next record. */
  constructor(suite: Suite, secret: Uint8Array, sequence: number) {
    this.#suite = suite
    this.#secret = Buffer.from(secret)
    this.#sequence = sequence
  }

  get sequence(): number {
    return this.#sequence
  }

  /** Returns the parts of a record with `content`, which is of `type`. */
  seal(type: number, content: Uint8Array): Buffer[] {
    const header = headerOf(content.length + 1 + TAG_BYTES)
    const { key, nonce } = this.#next()
    const cipher = nodeCrypto().createCipheriv(this.#suite.cipher as 'aes-128-gcm', key, nonce, TAG)
    this.#sequence++
    cipher.setAAD(header)
    // A copy costs less than more parts only if it is short.
    const inner = content.length > MOST_COPIED ? [content, Buffer.of(type)] : [withType(content, type)]
    const parts = [header, ...inner.map(bytes => cipher.update(bytes))]
    cipher.final()
    parts.push(cipher.getAuthTag())
    return content.length > MOST_COPIED ? parts : [Buffer.concat(parts)]
  }

  /** Returns a record with a KeyUpdate, and goes on with the next key. Most connections that leave need no other key here: the addon makes no objects for these. */
  sealUpdate(): Buffer {
    this.#checkSequence()
    const record = Buffer.alloc(UPDATE_BYTES)
    if (sealKeyUpdate(this.#suite.number, this.#secret, this.#sequence, record)) {
      this.#wipeKeys()
      this.#sequence = 0
      return record
    }
    const [sealed] = this.seal(HANDSHAKE, KEY_UPDATE)
    this.update()
    return sealed!
  }

  /** Returns the content of a whole record with its type and padding, or null if it was not sealed with this key as the next record. */
  open(record: Buffer): Buffer | null {
    const { key, nonce } = this.#next()
    const decipher = nodeCrypto().createDecipheriv(this.#suite.cipher as 'aes-128-gcm', key, nonce, TAG)
    const end = record.length - TAG_BYTES
    decipher.setAAD(record.subarray(0, HEADER_BYTES))
    decipher.setAuthTag(record.subarray(end))
    const inner = decipher.update(record.subarray(HEADER_BYTES, end))
    try {
      decipher.final()
    } catch {
      inner.fill(0)
      return null
    }
    this.#sequence++
    return inner
  }

  /** Goes on with the next key, as after a KeyUpdate. */
  update(): void {
    const secret = nextSecret(this.#suite, this.#secret)
    this.wipe()
    this.#secret = secret
    this.#sequence = 0
  }

  /** Returns the secret, which the caller wipes. Nothing can be sealed or opened any more. */
  takeSecret(): Buffer {
    const secret = this.#secret
    this.#secret = NOTHING
    this.wipe()
    return secret
  }

  /** Nothing can be sealed or opened any more. */
  wipe(): void {
    this.#secret.fill(0)
    this.#wipeKeys()
    this.#sequence = Number.NaN
  }

  #wipeKeys(): void {
    this.#keys?.key.fill(0)
    this.#keys?.iv.fill(0)
    this.#keys = null
  }

  #checkSequence(): void {
    if (!Number.isSafeInteger(this.#sequence)) throw new Error('no sequence number is left for this key')
  }

  /** The key and nonce of the next record. */
  #next(): { readonly key: Buffer; readonly nonce: Buffer } {
    this.#checkSequence()
    const suite = this.#suite
    this.#keys ??= {
      key: expandLabel(suite, this.#secret, 'key', suite.keyBytes),
      iv: expandLabel(suite, this.#secret, 'iv', IV_BYTES),
    }
    const { key, iv } = this.#keys
    NONCE.set(iv)
    xor32(NONCE, 4, Math.floor(this.#sequence / TWO_TO_32))
    xor32(NONCE, 8, this.#sequence % TWO_TO_32)
    return { key, nonce: NONCE }
  }
}

function xor32(bytes: Buffer, at: number, value: number): void {
  bytes.writeUInt32BE((bytes.readUInt32BE(at) ^ value) >>> 0, at)
}

function headerOf(length: number): Buffer {
  return Buffer.of(APPLICATION_DATA, 3, 3, length >> 8, length & 255)
}

function withType(content: Uint8Array, type: number): Buffer {
  const inner = Buffer.allocUnsafe(content.length + 1)
  inner.set(content)
  inner[content.length] = type
  return inner
}
