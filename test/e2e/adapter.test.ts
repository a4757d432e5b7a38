import { once } from 'node:events'
import net from 'node:net'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { freePort, Scene } from '../processes/scene.js'

const RELAY = fileURLToPath(new URL('../fixtures/own-relay.mjs', import.meta.url))

class Client {
  readonly socket: net.Socket
  readonly #lines: AsyncIterator<string>

  constructor(port: number) {
    this.socket = net.connect(port, '127.0.0.1')
    onTestFinished(() => void this.socket.destroy())
    this.#lines = createInterface(this.socket)[Symbol.asyncIterator]()
  }

  async ask(text: string): Promise<string> {
    this.socket.write(text)
    return (await this.#lines.next()).value
  }
}

describe("a relay of one's own", () => {
  it('has its connections go on in the next version where they were, half a line too', async () => {
    const scene = Scene.open()
    const port = await freePort()
    const start = () => scene.start({}, { command: [RELAY, scene.control, `tcp://127.0.0.1:${port}`] })
    const first = await (await start()).serving()
    const client = new Client(port)
    await once(client.socket, 'connect')
    expect(await client.ask('one\n')).toBe(`1 ${first.pid}`)
    expect(await client.ask('two\nthr')).toBe(`2 ${first.pid}`)

    const second = await (await start()).serving()
    expect(await first.says('retired')).toMatchObject({ why: 'replaced' })
    await first.end()
    expect(await client.ask('ee\n')).toBe(`3 ${second.pid}`)
    expect((await scene.status()).listeners).toMatchObject([{ name: 'lines', connections: 1 }])
  })
})
