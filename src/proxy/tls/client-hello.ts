/** A larger ClientHello is treated as if it had no server name. */
export const MAX_HELLO_BYTES = 64 * 1024

const HANDSHAKE = 22
const CLIENT_HELLO = 1
const SERVER_NAME = 0
const HOST_NAME = 0
const RECORD_HEAD = 5
const MESSAGE_HEAD = 4

/** Returns the server name in a ClientHello (RFC 6066, 3); undefined if more bytes are needed; null if there is no name, or if the ClientHello is malformed (OpenSSL reports that). */
export function serverNameOf(bytes: Buffer): string | null | undefined {
  const message = helloOf(bytes)
  if (!message) return message
  const reader = new ByteReader(message)
  // Skips the version and the random bytes.
  reader.skip(2 + 32)
  reader.skip(reader.number(1))
  reader.skip(reader.number(2))
  reader.skip(reader.number(1))
  const extensions = reader.part(reader.number(2))
  while (extensions.left > 0) {
    const type = extensions.number(2)
    const extension = extensions.part(extensions.number(2))
    if (type === SERVER_NAME) return hostNameIn(extension)
  }
  return null
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

/** Joins the ClientHello's body from its TLS records. Returns undefined and null as {@link serverNameOf}. */
function helloOf(bytes: Buffer): Buffer | null | undefined {
  const parts: Buffer[] = []
  let got = 0
  let wanted = MESSAGE_HEAD
  for (let at = 0; ; ) {
    if (at < bytes.length && bytes[at] !== HANDSHAKE) return null
    if (at + RECORD_HEAD > bytes.length) return undefined
    const length = bytes.readUInt16BE(at + 3)
    if (length === 0) return null
    const part = bytes.subarray(at + RECORD_HEAD, at + RECORD_HEAD + length)
    parts.push(part)
    got += part.length
    if (wanted === MESSAGE_HEAD && got >= MESSAGE_HEAD) {
      const head = Buffer.concat(parts)
      wanted += head.readUIntBE(1, 3)
      if (head[0] !== CLIENT_HELLO || wanted > MAX_HELLO_BYTES) return null
    }
    if (wanted > MESSAGE_HEAD && got >= wanted) return Buffer.concat(parts).subarray(MESSAGE_HEAD, wanted)
    if (part.length < length) return undefined
    at += RECORD_HEAD + length
  }
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
