import { once } from 'node:events'
import net from 'node:net'
import { onTestFinished } from 'vitest'

export function get(path: string, more = ''): string {
  return `GET ${path} HTTP/1.1\r\nHost: x\r\n${more}\r\n`
}

/** A client on one connection, which reads answers with a Content-Length or in chunks one by one. */
export class RawClient {
  readonly socket: net.Socket
  /** How the connection ended; null: it is open. */
  end: 'fin' | 'reset' | null = null
  #text = ''
  /** With fewer characters the next answer is not whole: to search a long text each time that it grows costs seconds. */
  #least = 0
  #wake = () => {}

  private constructor(socket: net.Socket) {
    this.socket = socket
    socket.setEncoding('latin1')
    socket.on('data', chunk => {
      this.#text += chunk
      this.#wake()
    })
    socket.on('error', () => {
      this.end = 'reset'
    })
    socket.on('close', () => {
      this.end ??= 'fin'
      this.#wake()
    })
  }

  static async to(where: number | string): Promise<RawClient> {
    const socket = typeof where === 'number' ? net.connect(where, '127.0.0.1') : net.connect(where)
    onTestFinished(() => {
      socket.destroy()
    })
    await once(socket, 'connect')
    return new RawClient(socket)
  }

  send(text: string): this {
    this.socket.write(text, 'latin1')
    return this
  }

  /** The next whole answer. Throws when the connection ends before. */
  async answer(): Promise<{ head: string; body: string }> {
    for (;;) {
      const found = this.#take()
      if (found !== null) return found
      if (this.end !== null)
        throw new Error(`the connection ended (${this.end}) behind ${JSON.stringify(this.#text)}`)
      await new Promise<void>(resolve => {
        this.#wake = resolve
      })
    }
  }

  async ask(path: string, more = ''): Promise<string> {
    return (await this.send(get(path, more)).answer()).body
  }

  /** Resolves when the connection has ended. */
  async ended(): Promise<'fin' | 'reset'> {
    while (this.end === null)
      await new Promise<void>(resolve => {
        this.#wake = resolve
      })
    return this.end
  }

  #take(): { head: string; body: string } | null {
    if (this.#text.length < this.#least) return null
    const at = this.#text.indexOf('\r\n\r\n')
    if (at < 0) return null
    const head = this.#text.slice(0, at)
    const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? 0)
    const end = at + 4 + length
    this.#least = end
    if (this.#text.length < end) return null
    this.#least = 0
    const body = this.#text.slice(at + 4, end)
    this.#text = this.#text.slice(end)
    return { head, body }
  }
}
