import type { ByteStream, BytesOrText, StreamOwner, Tally } from '../../src/relay/index.js'
import type { SimulatedClock } from './clock.js'

const NOTHING = Buffer.alloc(0)
/** No call may need a descriptor. */
const NO_DESCRIPTOR = null as never

/** A {@link ByteStream} whose peer is the simulation. */
abstract class SimulatedStream implements ByteStream {
  owner: StreamOwner | null
  since = 0
  alive = true
  bytesRead = 0
  bytesWritten = 0
  readonly unsentBytes = 0
  readonly acked = 0
  readonly movable = true
  readonly secure = false
  readonly stays = null
  readonly descriptor = NO_DESCRIPTOR
  readonly remotePort = 4711
  abstract readonly remoteAddress: string
  abstract connecting: boolean
  protected readonly clock: SimulatedClock

  constructor(clock: SimulatedClock, owner: StreamOwner | null) {
    this.clock = clock
    this.owner = owner
  }

  get congested(): boolean {
    return this.connecting
  }

  abstract readonly reusable: boolean
  abstract readonly untouched: boolean
  abstract readonly untouchedNow: boolean
  protected abstract take(text: string): void
  protected abstract closed(): void
  abstract end(): void

  write(
    bytes: BytesOrText,
    from = 0,
    to: number = bytes.length,
    more: Buffer = NOTHING,
    moreFrom = 0,
    moreTo: number = more.length,
  ): void {
    const first = typeof bytes === 'string' ? bytes.slice(from, to) : bytes.toString('latin1', from, to)
    const text = first + more.toString('latin1', moreFrom, moreTo)
    if (text === '' || !this.alive) return
    this.bytesWritten += text.length
    this.take(text)
  }

  setReading(): void {}

  takeUnsent(): Buffer[] {
    return []
  }

  destroy(): void {
    if (!this.alive) return
    this.alive = false
    this.owner = null
    this.closed()
  }

  reset(): void {
    this.destroy()
  }

  mayMove(): boolean {
    return true
  }

  detach(): never {
    throw new Error('connections of the simulation do not move')
  }

  protected deliver(text: string): void {
    const bytes = Buffer.from(text, 'latin1')
    this.bytesRead += bytes.length
    this.owner?.onData(this, bytes, bytes.length)
  }

  /** The connection breaks, or (null) both sides have sent FIN. */
  protected fail(error: Error | null): void {
    if (!this.alive) return
    const { owner } = this
    this.destroy()
    owner?.onClose(this, error)
  }
}

/** The observer of a client. */
export interface ClientEvents {
  answered(status: number, body: string, head: string): void
  /** The relay has closed the connection. */
  closed(): void
}

/** The connection of a client, as the relay has it. */
export class ClientStream extends SimulatedStream {
  connecting = false
  readonly remoteAddress = '10.9.9.9'
  readonly reusable = true
  readonly untouched = true
  readonly untouchedNow = true
  readonly #events: ClientEvents
  #text = ''
  #ended = false

  constructor(clock: SimulatedClock, events: ClientEvents) {
    super(clock, null)
    this.#events = events
  }

  send(text: string): void {
    this.deliver(text)
  }

  /** The client closes its connection. */
  leave(how: 'FIN' | 'RST'): void {
    if (!this.alive) return
    if (how === 'RST') this.fail(new Error('ECONNRESET'))
    else {
      this.owner?.onEnd(this)
      if (this.#ended) this.clock.after(0, () => this.fail(null))
    }
  }

  end(): void {
    if (this.#ended) return
    this.#ended = true
    this.clock.after(0, () => {
      if (!this.alive) return
      this.#events.closed()
      this.owner?.onEnd(this)
      this.fail(null)
    })
  }

  protected take(text: string): void {
    this.#text += text
    for (;;) {
      const end = this.#text.indexOf('\r\n\r\n')
      if (end < 0) return
      const head = this.#text.slice(0, end)
      const length = Number(/\r\nContent-Length: (\d+)/i.exec(head)?.[1] ?? 0)
      const body = this.#text.slice(end + 4, end + 4 + length)
      if (body.length < length) return
      this.#text = this.#text.slice(end + 4 + length)
      this.#events.answered(Number(head.slice(9, 12)), body, head)
    }
  }

  protected closed(): void {
    this.clock.after(0, () => this.#events.closed())
  }
}

/** The server at the other end of a connection. */
export interface ServerEnd {
  /** The relay begins to send the request with this number. */
  begins(stream: ServerStream, id: number): void
  /** The server has the whole request. */
  requested(stream: ServerStream, id: number): void
  /** The relay has closed the connection, or it has failed. */
  gone(stream: ServerStream): void
}

/** A connection to a server, as the relay has it. */
export class ServerStream extends SimulatedStream {
  connecting = true
  readonly key: string
  /** The process that has it. */
  readonly edge: number
  readonly remoteAddress = '10.0.0.1'
  readonly dialledAt: number
  /** The number of the request that is under way on it. */
  request: number | null = null
  /** The server has closed its end, and answers nothing. */
  isLeft = false
  /** How it has ended, if not by the relay. */
  failure: 'refused' | 'closed' | null = null
  /** A request was answered on it before the present one. */
  isReused = false
  readonly #tally: Tally
  readonly #end: ServerEnd
  #arrived = false
  #text = ''
  #unsent = ''

  constructor(
    clock: SimulatedClock,
    of: { key: string; edge: number },
    owner: StreamOwner,
    tally: Tally,
    end: ServerEnd,
  ) {
    super(clock, owner)
    this.key = of.key
    this.edge = of.edge
    this.dialledAt = clock.now
    this.#tally = tally
    this.#end = end
    tally.open++
  }

  get reusable(): boolean {
    return this.alive && !this.connecting && !this.#arrived
  }

  get untouched(): boolean {
    return this.reusable
  }

  get untouchedNow(): boolean {
    return this.reusable
  }

  /** No request is under way, and another one may use it. */
  get isIdle(): boolean {
    return this.alive && !this.connecting && this.request === null
  }

  override takeUnsent(): Buffer[] {
    const unsent = Buffer.from(this.#unsent, 'latin1')
    this.#unsent = ''
    return [unsent]
  }

  end(): void {}

  /** The server accepts. */
  accept(): void {
    if (!this.alive || !this.connecting) return
    this.connecting = false
    this.owner?.onOpen(this)
    const text = this.#unsent
    this.#unsent = ''
    if (!this.alive) return
    if (text !== '') this.#read(text)
    this.owner?.onDrain(this)
  }

  refuse(): void {
    this.#break('refused', Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }))
  }

  respond(text: string, isLast: boolean): void {
    if (!this.alive || this.isLeft) return
    this.request = null
    this.isReused = true
    if (isLast) this.isLeft = true
    this.deliver(text)
    if (isLast) this.clock.after(0, () => this.owner?.onEnd(this))
  }

  /** The server closes its end, or is gone; the relay hears of that a moment later. */
  leave(how: 'FIN' | 'RST', laterMs: number): void {
    if (!this.alive || this.isLeft) return
    this.isLeft = true
    this.clock.after(laterMs, () => {
      if (!this.alive) return
      this.#arrived = true
      // The event loop reports it a turn later than the kernel has it.
      this.clock.after(0, () => {
        if (!this.alive) return
        this.failure = 'closed'
        if (how === 'FIN') this.owner?.onEnd(this)
        else this.#break('closed', Object.assign(new Error('reset'), { code: 'ECONNRESET' }))
      })
    })
  }

  #break(failure: 'refused' | 'closed', error: Error): void {
    if (!this.alive) return
    this.failure = failure
    this.fail(error)
  }

  protected take(text: string): void {
    const id = /^(?:PROXY [^\n]*\n)?[A-Z]+ \/(\d+) /.exec(this.#unsent + text)?.[1]
    if (this.connecting) this.#unsent += text
    if (id !== undefined && this.request === null) {
      this.request = Number(id)
      this.#end.begins(this, this.request)
    }
    if (!this.connecting) this.#read(text)
  }

  #read(text: string): void {
    this.#text += text
    if (this.request === null) return
    const end = this.#text.indexOf('\r\n\r\n')
    if (end < 0) return
    const length = Number(/\r\nContent-Length: (\d+)/i.exec(this.#text.slice(0, end))?.[1] ?? 0)
    if (this.#text.length < end + 4 + length) return
    this.#text = ''
    if (!this.isLeft) this.#end.requested(this, this.request)
  }

  protected closed(): void {
    this.#tally.open--
    this.#end.gone(this)
  }
}
