import { once } from 'node:events'
import { type ClientRequest, get, type IncomingMessage } from 'node:http'
import { text } from 'node:stream/consumers'

/** A client that is connected, and has sent a request: no process answers yet. */
export class WaitingClient {
  state: 'waits' | 'answered' | 'closed' = 'waits'
  /** Resolves with the pid that answers. */
  readonly answer: Promise<number>
  readonly #request: ClientRequest

  private constructor(request: ClientRequest) {
    this.#request = request
    this.answer = this.#answer()
    // The cell may say that no process serves later.
    this.answer.catch(() => {})
  }

  /** Rejects if the client is refused. */
  static async connect(url: string): Promise<WaitingClient> {
    const client = new WaitingClient(get(`${url}/whoami`, { agent: false }))
    const [socket] = await once(client.#request, 'socket')
    if (socket.connecting) await once(socket, 'connect')
    return client
  }

  async #answer(): Promise<number> {
    this.#request.on('error', () => {
      if (this.state === 'waits') this.state = 'closed'
    })
    const [response] = (await once(this.#request, 'response')) as [IncomingMessage]
    this.state = 'answered'
    if (response.statusCode !== 200) throw new Error(`answered with ${response.statusCode}`)
    return Number((await text(response)).split(',')[1])
  }

  close(): void {
    this.#request.destroy()
  }
}
