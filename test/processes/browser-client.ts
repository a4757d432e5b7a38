import { Page } from './browser.js'

/** Counts of a page's WebSocket and EventSource, and what went wrong. */
export interface Seen {
  readonly answers: number
  readonly ticks: number
  readonly events: number
  /** The process that sent the last event. */
  readonly pid: number
  readonly faults: readonly string[]
}

/**
 * The script of the page: a WebSocket whose messages are answered with their number, and that gets numbered ticks, and an EventSource of numbered
 * events. The next message follows each answer. An EventSource reports an error when its connection ends, before it connects again.
 */
function script(sockets: number): string {
  return `
    globalThis.seen = { answers: 0, ticks: 0, events: 0, pid: 0, faults: [] }
    const expected = (name, got) => {
      if (got !== ++seen[name]) seen.faults.push(name + ' ' + got + ' instead of ' + seen[name])
    }
    const socket = new WebSocket('wss://127.0.0.1:${sockets}/ws')
    const send = () => socket.send('x'.repeat(1 + (seen.answers % 50) * 400))
    socket.onopen = send
    socket.onclose = ({ code }) => seen.faults.push('the WebSocket was closed with ' + code)
    socket.onmessage = ({ data }) => {
      const [first, second] = data.slice(0, 30).split(' ')
      if (first === 'tick') expected('ticks', Number(second))
      else {
        expected('answers', Number(first))
        setTimeout(send, 20)
      }
    }
    const stream = new EventSource('/events')
    stream.onerror = () => seen.faults.push('the event stream ended')
    stream.onmessage = ({ lastEventId, data }) => {
      expected('events', Number(lastEventId))
      seen.pid = Number(data)
    }
    0`
}

/** A page in Chromium with a WebSocket and an EventSource over TLS. */
export class BrowserClient {
  readonly #page: Page

  private constructor(page: Page) {
    this.#page = page
  }

  /** `streams`: the port that serves the page and its events; `sockets`: the one of WebSockets. */
  static async open(ports: { streams: number; sockets: number }, ms: number): Promise<BrowserClient> {
    const client = new BrowserClient(await Page.open(`https://127.0.0.1:${ports.streams}/parts/0`, ms))
    await client.#page.evaluate(script(ports.sockets))
    return client
  }

  async seen(): Promise<Seen> {
    return (await this.#page.evaluate('seen')) as Seen
  }
}
