import { createCipheriv, createDecipheriv, createHmac } from 'node:crypto'
import type { TrafficState } from '../../src/tls13/record-layer.js'

export const SUITES = {
  TLS_AES_128_GCM_SHA256: { cipher: 'aes-128-gcm', key: 16, hash: 'sha256', secret: 32 },
  TLS_AES_256_GCM_SHA384: { cipher: 'aes-256-gcm', key: 32, hash: 'sha384', secret: 48 },
  TLS_CHACHA20_POLY1305_SHA256: { cipher: 'chacha20-poly1305', key: 32, hash: 'sha256', secret: 32 },
} as const

export type SuiteName = keyof typeof SUITES

export const ALERT = 21
export const HANDSHAKE = 22
export const DATA = 23

/** One direction of a client, by RFC 8446 alone: nothing of `src` is used. */
class Direction {
  readonly #suite: SuiteName
  #secret: Buffer
  sequence: bigint
  #key!: Buffer
  #iv!: bigint

  constructor(suite: SuiteName, secret: Uint8Array, sequence: bigint) {
    this.#suite = suite
    this.#secret = Buffer.from(secret)
    this.sequence = sequence
    this.#derive()
  }

  #expand(label: string, length: number): Buffer {
    const info = Buffer.from(
      `${length.toString(16).padStart(4, '0')}${(6 + label.length).toString(16).padStart(2, '0')}${Buffer.from(`tls13 ${label}`).toString('hex')}0001`,
      'hex',
    )
    return createHmac(SUITES[this.#suite].hash, this.#secret).update(info).digest().subarray(0, length)
  }

  #derive(): void {
    this.#key = this.#expand('key', SUITES[this.#suite].key)
    this.#iv = BigInt(`0x${this.#expand('iv', 12).toString('hex')}`)
  }

  update(): void {
    this.#secret = this.#expand('traffic upd', SUITES[this.#suite].secret)
    this.sequence = 0n
    this.#derive()
  }

  #nonce(): Buffer {
    return Buffer.from((this.#iv ^ this.sequence++).toString(16).padStart(24, '0'), 'hex')
  }

  seal(inner: Uint8Array): Buffer {
    const head = Buffer.from([23, 3, 3, (inner.length + 16) >> 8, (inner.length + 16) & 255])
    const cipher = createCipheriv(SUITES[this.#suite].cipher as 'aes-128-gcm', this.#key, this.#nonce(), {
      authTagLength: 16,
    })
    cipher.setAAD(head)
    return Buffer.concat([head, cipher.update(inner), cipher.final(), cipher.getAuthTag()])
  }

  /** Throws if the record is not the next one. */
  open(record: Buffer): { inner: Buffer; used: string } {
    const nonce = this.#nonce()
    const used = `${this.#key.toString('hex')} ${nonce.toString('hex')}`
    const decipher = createDecipheriv(SUITES[this.#suite].cipher as 'aes-128-gcm', this.#key, nonce, {
      authTagLength: 16,
    })
    decipher.setAAD(record.subarray(0, 5))
    decipher.setAuthTag(record.subarray(-16))
    return { inner: Buffer.concat([decipher.update(record.subarray(5, -16)), decipher.final()]), used }
  }
}

/** A client whose handshake is complete. */
export class TlsPeer {
  readonly #out: Direction
  readonly #in: Direction
  /** Key and nonce of each record that the server has sealed. */
  readonly used: string[] = []
  received = Buffer.alloc(0)
  alerts: number[][] = []
  updates = 0

  constructor(state: TrafficState) {
    const suite = state.suite as SuiteName
    this.#out = new Direction(suite, state.readSecret, BigInt(state.readSequence))
    this.#in = new Direction(suite, state.writeSecret, BigInt(state.writeSequence))
  }

  seal(type: number, content: Uint8Array, padding = 0): Buffer {
    return this.#out.seal(Buffer.concat([content, Buffer.of(type), Buffer.alloc(padding)]))
  }

  /** Seals what is no record's content. */
  sealInner(inner: Uint8Array): Buffer {
    return this.#out.seal(inner)
  }

  keyUpdate(requested: 0 | 1): Buffer {
    const record = this.seal(HANDSHAKE, Buffer.of(24, 0, 0, 1, requested))
    this.#out.update()
    return record
  }

  /** Reads whole records of the server. */
  read(bytes: Buffer): void {
    for (let at = 0; at < bytes.length; ) {
      const length = 5 + bytes.readUInt16BE(at + 3)
      const { inner, used } = this.#in.open(bytes.subarray(at, at + length))
      this.used.push(used)
      at += length
      const content = inner.subarray(0, -1)
      const type = inner.at(-1)
      if (type === DATA) this.received = Buffer.concat([this.received, content])
      else if (type === ALERT) this.alerts.push([...content])
      else if (content.equals(Buffer.of(24, 0, 0, 1, 0))) {
        this.updates++
        this.#in.update()
      } else throw new Error(`a record of type ${type}`)
    }
  }
}

export function stateOf(
  suite: SuiteName,
  numbers: { readSequence?: number; writeSequence?: number } = {},
): TrafficState {
  const { secret } = SUITES[suite]
  return {
    suite,
    readSecret: Buffer.alloc(secret, 1),
    writeSecret: Buffer.alloc(secret, 2),
    readSequence: 0,
    writeSequence: 0,
    sealed: new Uint8Array(0),
    unsent: new Uint8Array(0),
    received: new Uint8Array(0),
    ...numbers,
  }
}
