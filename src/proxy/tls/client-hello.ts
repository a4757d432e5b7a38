/** A larger ClientHello is treated as if it had no server name. */
export const MAX_HELLO_BYTES = 64 * 1024

const HANDSHAKE = 22
const CLIENT_HELLO = 1
const SERVER_NAME = 0
const HOST_NAME = 0
const PROTOCOLS = 16
const RECORD_HEAD = 5
const MESSAGE_HEAD = 4

/** Returns the server name in a ClientHello (RFC 6066, 3); undefined if more bytes are needed; null if there is no name, or if the ClientHello is malformed (OpenSSL reports that). */
export function serverNameOf(bytes: Buffer): string | null | undefined {
  return new HelloReader().add(bytes)
}

/** Reads a ClientHello that comes in pieces. Looks at each byte once, however many pieces and records a client makes of it. */
export class HelloReader {
  readonly #all = new JoinedBytes()
  /** The bytes of the head of the current record, as far as they have come. */
  readonly #head: number[] = []
  /** How many bytes of the current record have not come yet. */
  #left = 0
  /** The message, of one or several records. */
  readonly #message = new JoinedBytes()
  #wanted = MESSAGE_HEAD
  /** The names of ALPN (RFC 7301) that the client offers, once {@link add} has returned a name or null. */
  protocols: readonly string[] = []

  /** All bytes that were added. */
  get bytes(): Buffer {
    return this.#all.bytes
  }

  /** Returns as {@link serverNameOf}; null also for a message that is too large. Call it until it returns no undefined. */
  add(piece: Buffer): string | null | undefined {
    this.#all.add(piece)
    for (let at = 0; at < piece.length; ) {
      if (this.#left === 0) {
        const byte = piece[at++]!
        if (this.#head.length === 0 && byte !== HANDSHAKE) return null
        if (this.#head.push(byte) < RECORD_HEAD) continue
        const [, , , high = 0, low = 0] = this.#head.splice(0)
        this.#left = high * 256 + low
        if (this.#left === 0) return null
        continue
      }
      const part = piece.subarray(at, at + this.#left)
      at += part.length
      this.#left -= part.length
      const found = this.#addPart(part)
      if (found !== undefined) return found
    }
    return this.#all.length < MAX_HELLO_BYTES ? undefined : null
  }

  #addPart(part: Buffer): string | null | undefined {
    const message = this.#message
    message.add(part)
    if (this.#wanted === MESSAGE_HEAD && message.length >= MESSAGE_HEAD) {
      const { bytes } = message
      this.#wanted += bytes.readUIntBE(1, 3)
      const isHello = bytes[0] === CLIENT_HELLO && this.#wanted > MESSAGE_HEAD
      if (!isHello || this.#wanted > MAX_HELLO_BYTES) return null
    }
    if (this.#wanted === MESSAGE_HEAD || message.length < this.#wanted) return undefined
    const { name, protocols } = offersIn(message.bytes.subarray(MESSAGE_HEAD, this.#wanted))
    this.protocols = protocols
    return name
  }
}

/** Joins pieces. Copies each byte a few times at most, and keeps no piece. */
class JoinedBytes {
  #room = Buffer.alloc(0)
  length = 0

  add(piece: Buffer): void {
    const length = this.length + piece.length
    if (length > this.#room.length) {
      const room = Buffer.alloc(Math.max(length, 2 * this.#room.length))
      this.#room.copy(room, 0, 0, this.length)
      this.#room = room
    }
    piece.copy(this.#room, this.length)
    this.length = length
  }

  get bytes(): Buffer {
    return this.#room.subarray(0, this.length)
  }
}

function offersIn(message: Buffer): { name: string | null; protocols: string[] } {
  const reader = new ByteReader(message)
  // Skips the version and the random bytes.
  reader.skip(2 + 32)
  reader.skip(reader.number(1))
  reader.skip(reader.number(2))
  reader.skip(reader.number(1))
  const extensions = reader.part(reader.number(2))
  let name: string | null | undefined
  let protocols: string[] | undefined
  while (extensions.left > 0) {
    const type = extensions.number(2)
    const extension = extensions.part(extensions.number(2))
    if (type === SERVER_NAME) name ??= hostNameIn(extension)
    if (type === PROTOCOLS) protocols ??= protocolsIn(extension)
  }
  return { name: name ?? null, protocols: protocols ?? [] }
}

function protocolsIn(extension: ByteReader): string[] {
  const names = extension.part(extension.number(2))
  const protocols: string[] = []
  while (names.left > 0) protocols.push(names.part(names.number(1)).text())
  return names.broken ? [] : protocols
}

function hostNameIn(extension: ByteReader): string | null {
  const names = extension.part(extension.number(2))
  while (names.left > 0) {
    const type = names.number(1)
    const name = names.part(names.number(2))
    if (type === HOST_NAME && !name.broken && name.left > 0) return name.text()
  }
  return null
}

/** Reads a part of the message. A read beyond the end returns 0 and sets `broken`. */
class ByteReader {
  broken = false
  #at = 0
  readonly #bytes: Buffer

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get left(): number {
    return this.broken ? 0 : this.#bytes.length - this.#at
  }

  number(bytes: 1 | 2): number {
    const at = this.#at
    this.skip(bytes)
    return this.broken ? 0 : this.#bytes.readUIntBE(at, bytes)
  }

  skip(bytes: number): void {
    if (bytes > this.left) this.broken = true
    else this.#at += bytes
  }

  part(bytes: number): ByteReader {
    const at = this.#at
    this.skip(bytes)
    const part = new ByteReader(this.#bytes.subarray(at, at + bytes))
    part.broken = this.broken
    return part
  }

  text(): string {
    return this.#bytes.toString('latin1', this.#at)
  }
}
