import { closeAll, type OwnedFd } from '../../src/kernel/index.js'
import { fdbroker } from '../../src/proto/wire.js'
import { Channel } from '../../src/wire/channel.js'
import { VERSIONS, type WireBody, type WireEnvelope } from '../../src/wire/link.js'

const { Envelope, Intent } = fdbroker.wire

export function packed(body: WireBody): Uint8Array {
  return Envelope.encode(body).finish()
}

/** A Hello as a process of this release says it. */
export function hello(intent: keyof typeof Intent, service = 'shop', generation = 0): WireBody {
  const { min: versionMin, max: versionMax } = VERSIONS
  return { hello: { versionMin, versionMax, service, intent: Intent[intent], pid: process.pid, generation } }
}

/** A peer on a control socket that need not keep to the protocol. Collects what it is told. */
export class RawPeer {
  readonly heard: WireEnvelope[] = []
  readonly ended: Promise<void>
  readonly #channel: Channel

  private constructor(channel: Channel) {
    this.#channel = channel
    this.ended = new Promise(resolve =>
      channel.start({
        message: (payload, fds) => {
          closeAll(fds)
          this.heard.push(Envelope.decode(payload))
        },
        end: () => resolve(),
      }),
    )
  }

  static async connect(control: string): Promise<RawPeer> {
    return new RawPeer(await Channel.connect(control))
  }

  /** Sends in one go: the other side may well read them in one turn. Ignores bytes that the other side does not take. */
  say(...bodies: readonly (WireBody | Uint8Array)[]): void {
    for (const body of bodies) void this.send(body instanceof Uint8Array ? body : packed(body))
  }

  /** `fds` are borrowed until it resolves; it never rejects. */
  async send(payload: Uint8Array, fds: readonly OwnedFd[] = []): Promise<void> {
    await this.#channel.send(payload, fds).catch(() => {})
  }

  /** Reads no more. */
  pause(): void {
    this.#channel.pause()
  }

  leave(): void {
    void this.#channel.close()
  }
}
