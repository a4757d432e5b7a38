import {
  type Arrival,
  type ConnectionValue,
  decoded,
  type MovableConnections,
  type MoveWhich,
  onlyConnection,
  type Witness,
} from '../../src/connections/movable.js'
import { FdbError } from '../../src/errors.js'
import { OwnedFd, receiveMessage, sendMessage } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'

export type PairConnection = ConnectionValue<string>

/** One end of a socket pair each, by name: the least that can move. {@link tend} answers a line with `!`. */
export class SocketPairs implements MovableConnections<PairConnection> {
  readonly protocol = 'test/1'
  readonly here = new Map<string, OwnedFd>()
  /** The refused connections. */
  readonly staying = new Map<string, OwnedFd>()
  onMovable: (() => void) | null = null
  /** Refuses an arriving connection. */
  refuses: (name: string) => boolean = () => false
  readonly #seen = new Map<string, { asked: boolean; answered: boolean }>()

  /** Adds connections c0, c1 and so on. Returns their other ends. */
  fill(count: number): OwnedFd[] {
    return Array.from({ length: count }, (_, i) => {
      const [a, b] = native.socketPair()
      this.here.set(`c${i}`, OwnedFd.own(a, `c${i}`))
      return OwnedFd.own(b, `peer of c${i}`)
    })
  }

  get movable(): number {
    return this.here.size
  }

  get size(): number {
    return this.here.size + this.staying.size
  }

  *departures(_which: MoveWhich): Generator<PairConnection | null, void, undefined> {
    for (const [name, fd] of this.here) {
      this.here.delete(name)
      yield { record: this.recordOf(name), fds: [fd], state: name }
    }
  }

  check(record: Uint8Array, fds: readonly OwnedFd[]): PairConnection {
    const state = decoded(nameIn, record)
    onlyConnection(fds)
    if (this.refuses(state)) throw new FdbError('ERR_FDB_RELAYED_REFUSED', `${state} is not wanted`)
    return { record, fds, state }
  }

  arrive({ state: name, fds }: PairConnection, how: Arrival): Witness {
    const hands = how === 'refused' ? this.staying : this.here
    hands.set(name, fds[0]!)
    const witness = { asked: false, answered: false }
    this.#seen.set(name, witness)
    return witness
  }

  /** Reads and answers what has come; closes what has ended. */
  tend(): void {
    for (const hands of [this.here, this.staying]) for (const [name, fd] of hands) this.#tend(name, fd, hands)
  }

  protected recordOf(name: string): Uint8Array {
    return Buffer.from(name)
  }

  #tend(name: string, fd: OwnedFd, hands: Map<string, OwnedFd>): void {
    const into = Buffer.alloc(64)
    const { bytes } = receiveMessage(fd, into)
    if (bytes === 0) {
      hands.delete(name)
      fd.close()
    }
    if (bytes <= 0) return
    const seen = this.#seen.get(name)
    if (seen) seen.asked = true
    for (const _line of into.toString('latin1', 0, bytes).split('\n').slice(1)) {
      sendMessage(fd, Buffer.from('!'), 0, 1, [])
      if (seen) seen.answered = true
    }
  }
}

function nameIn(record: Uint8Array): string {
  const [name] = /^[a-z0-9]+(?= *$)/.exec(Buffer.from(record).toString('latin1')) ?? []
  if (name === undefined) throw new FdbError('ERR_FDB_CONNECTION', 'it has no name')
  return name
}
