import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { connect, createServer } from 'node:tls'
import { onTestFinished } from 'vitest'
import type { Certificate } from './certificate.js'
import { HEADERS } from './http2-frames.js'

/** The length of the preface of a client, which stands before its first frame. */
const PREFACE = 24
const HEAD = 9

/**
 * Stands between a client and a server of HTTP/2 over TLS, and counts the requests that the client sends. h2load counts as started also
 * those that it queues behind a GOAWAY of the same read, and never sends.
 */
export class Http2RequestCounter {
  readonly url: string
  readonly #count: { sent: number }

  private constructor(url: string, count: { sent: number }) {
    this.url = url
    this.#count = count
  }

  static async start(port: number, { key, cert }: Certificate): Promise<Http2RequestCounter> {
    const count = { sent: 0 }
    const pem = { key: readFileSync(key), cert: readFileSync(cert) }
    const server = createServer(
      { ...pem, ALPNProtocols: ['h2'], allowHalfOpen: true, noDelay: true },
      client => {
        const target = connect({ port, ALPNProtocols: ['h2'], rejectUnauthorized: false })
        target.setNoDelay()
        for (const socket of [client, target]) socket.on('error', () => {})
        client.on('close', () => target.destroy())
        target.on('close', () => client.destroySoon())
        const heads = new HeadCounter(() => count.sent++)
        client.on('data', chunk => heads.read(chunk))
        client.pipe(target)
        target.pipe(client)
      },
    )
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close())
    return new Http2RequestCounter(`https://127.0.0.1:${(server.address() as AddressInfo).port}`, count)
  }

  get sent(): number {
    return this.#count.sent
  }
}

/** Counts the HEADERS frames of a client. */
class HeadCounter {
  readonly #found: () => void
  #skip = PREFACE
  #head = Buffer.alloc(0)

  constructor(found: () => void) {
    this.#found = found
  }

  read(chunk: Buffer): void {
    let at = 0
    for (;;) {
      const skipped = Math.min(this.#skip, chunk.length - at)
      this.#skip -= skipped
      at += skipped
      if (at === chunk.length) return
      const taken = chunk.subarray(at, at + HEAD - this.#head.length)
      this.#head = Buffer.concat([this.#head, taken])
      at += taken.length
      if (this.#head.length < HEAD) return
      if (this.#head[3] === HEADERS) this.#found()
      this.#skip = this.#head.readUIntBE(0, 3)
      this.#head = Buffer.alloc(0)
    }
  }
}
