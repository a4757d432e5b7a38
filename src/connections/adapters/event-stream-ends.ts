import type http from 'node:http'
import type net from 'node:net'
import { GradualLeave } from '../../base/gradual-leave.js'
import { responseOf } from '../../node/http-connections.js'
import { setMethod } from '../../node/observed-events.js'
import { sentHeader } from '../../node/unfinished-answer.js'
import type { Leaving } from './taken-over.js'

/** The longest time after which a client connects again, in milliseconds; each gets another. */
const CLIENT_RETRY_MS = { replaced: 1_000, ended: 5_000 } as const
/** A stream that was not written to for this long is between two events: programs write an event at once. */
const QUIET_MS = 1_000
/** Characters that show whether a blank line ends the text. */
const TAIL = 4
const BLANK_LINE = /(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)$/

type Write = (chunk: string | Uint8Array, ...rest: unknown[]) => boolean
type End = (...args: unknown[]) => unknown
interface Methods {
  write: Write
  end: End
}

/** An event stream that is about to end. */
interface Ending {
  readonly response: http.ServerResponse
  readonly methods: Methods
  /** The own methods of the response before, of a middleware. */
  readonly own: Partial<Methods>
  /** The end of the text that was written while it was watched. */
  tail: string
  writtenAt: number
  /** Whether the stream ends at the end of the present event. */
  due: boolean
  ended: boolean
  timer: NodeJS.Timeout | undefined
  readonly closed: () => void
}

/** Ends event streams that do not move: between two events, with a time after which the client connects again. */
export class EventStreamEnds {
  readonly #endings = new Map<http.ServerResponse, Ending>()
  readonly #leave = new GradualLeave<Ending>(ending => this.#makeDue(ending))
  #why: Leaving['why'] = 'replaced'

  /** Ends those of the connections' answers that are event streams, spread over `withinMs`. */
  leave(sockets: readonly net.Socket[], { why, withinMs }: Leaving): void {
    this.#why = why
    const endings = sockets.flatMap(socket => {
      const response = responseOf(socket)
      return response === null || !isEventStream(response) ? [] : [this.#watch(response)]
    })
    this.#leave.within(
      endings.filter(({ due }) => !due),
      withinMs,
    )
  }

  /** Revokes {@link leave} for the streams that have not ended. */
  stay(): void {
    this.#leave.stop()
    for (const ending of [...this.#endings.values()]) this.#release(ending)
  }

  #watch(response: http.ServerResponse): Ending {
    const known = this.#endings.get(response)
    if (known !== undefined) return known
    const methods = response as unknown as Methods
    const own: Partial<Methods> = {}
    if (Object.hasOwn(response, 'write')) own.write = methods.write
    if (Object.hasOwn(response, 'end')) own.end = methods.end
    const { write, end } = methods
    const ending: Ending = {
      response,
      methods: { write: write.bind(response) as Write, end: end.bind(response) },
      own,
      tail: '',
      writtenAt: performance.now(),
      due: false,
      ended: false,
      timer: undefined,
      closed: () => this.#release(ending),
    }
    setMethod(methods, 'write', (...args: Parameters<Write>) => this.#written(ending, args))
    setMethod(methods, 'end', (...args: unknown[]) => {
      if (!ending.ended) this.#release(ending)
      return ending.ended ? response : ending.methods.end(...args)
    })
    this.#endings.set(response, ending)
    // The client may go before.
    response.once('close', ending.closed)
    return ending
  }

  #written(ending: Ending, args: Parameters<Write>): boolean {
    // The program may write on until it gets 'close'.
    if (ending.ended) return false
    const [chunk] = args
    const text =
      typeof chunk === 'string' ? chunk.slice(-TAIL) : Buffer.from(chunk).subarray(-TAIL).toString('latin1')
    ending.tail = (ending.tail + text).slice(-TAIL)
    ending.writtenAt = performance.now()
    const passed = ending.methods.write(...args)
    if (ending.due && BLANK_LINE.test(ending.tail)) this.#end(ending, '\n')
    return passed
  }

  #makeDue(ending: Ending): void {
    const { response, tail } = ending
    if (response.destroyed || response.writableEnded) {
      this.#release(ending)
      return
    }
    ending.due = true
    if (BLANK_LINE.test(tail)) this.#end(ending, '\n')
    // Without a write it is not known where the stream is; a blank line could end an event that is not whole.
    else if (tail === '') this.#endIfQuiet(ending)
  }

  #endIfQuiet(ending: Ending): void {
    if (ending.tail !== '' || ending.ended) return
    const left = ending.writtenAt + QUIET_MS - performance.now()
    if (left <= 0) this.#end(ending, '')
    else ending.timer = setTimeout(() => this.#endIfQuiet(ending), left).unref()
  }

  #end(ending: Ending, blank: string): void {
    const { response, methods } = ending
    if (!response.destroyed && !response.writableEnded) {
      const most = CLIENT_RETRY_MS[this.#why]
      const retry = Math.ceil(most * (0.1 + 0.9 * Math.random()))
      methods.write(`retry: ${retry}\n${blank}`)
      methods.end()
    }
    ending.ended = true
    this.#endings.delete(response)
    response.off('close', ending.closed)
    clearTimeout(ending.timer)
  }

  /** Gives the response its methods back. */
  #release(ending: Ending): void {
    const { response, own } = ending
    this.#endings.delete(response)
    this.#leave.forget(ending)
    response.off('close', ending.closed)
    clearTimeout(ending.timer)
    ending.due = false
    for (const key of ['write', 'end'] as const) {
      if (own[key] === undefined) Reflect.deleteProperty(response, key)
    }
    Object.assign(response, own)
  }
}

/** Whether the answer is an event stream to which this process can add a line. */
function isEventStream(response: http.ServerResponse): boolean {
  if (!/^text\/event-stream\b/i.test(sentHeader(response, 'content-type') ?? '')) return false
  // Others have announced their length.
  if (!response.chunkedEncoding && response.shouldKeepAlive) return false
  // A middleware that compresses has a method of its own.
  return sentHeader(response, 'content-encoding') === null || Object.hasOwn(response, 'write')
}
