import http from 'node:http'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { onTestFinished } from 'vitest'
import { WebSocket } from 'ws'

/** Between two messages of a client, and before it connects again. */
const PAUSE_MS = 50

/** The experience of a client, which connects again when its connection has ended. */
export class Seen {
  /** Connections that were made. */
  opened = 0
  /** How connections ended. */
  readonly ends: string[] = []
  /** Attempts to connect that failed, and bytes that must not come. */
  readonly failures: string[] = []
  readonly pids = new Set<number>()
  messages = 0

  message(pid: number): void {
    this.messages++
    this.pids.add(pid)
  }
}

function pidIn(text: string): number {
  return Number(/pid"?[ :](\d+)/.exec(text)?.[1] ?? 0)
}

/** Asks over a WebSocket one question after the other; one that was not answered is asked again over the next. */
export function webSocketClient(url: string): Seen {
  const seen = new Seen()
  let stopped = false
  let socket: WebSocket
  const open = () => {
    socket = new WebSocket(url.replace('http:', 'ws:'))
    let opened = false
    const ask = () => socket.readyState === WebSocket.OPEN && socket.send(`question ${seen.messages}`)
    socket.on('open', () => {
      opened = true
      seen.opened++
      ask()
    })
    socket.on('message', data => {
      const text = String(data)
      if (!text.startsWith(`question ${seen.messages} to pid `)) seen.failures.push(`message ${text}`)
      seen.message(pidIn(text))
      setTimeout(ask, PAUSE_MS)
    })
    socket.on('error', error => seen.failures.push(`${opened ? 'open' : 'connecting'}: ${error.message}`))
    socket.on('close', code => {
      if (stopped) return
      seen.ends.push(`${code}`)
      setTimeout(open, PAUSE_MS)
    })
  }
  open()
  onTestFinished(() => {
    stopped = true
    socket.terminate()
  })
  return seen
}

/** An EventSource: reads events, and connects again when the stream has ended. */
export function eventSource(url: string): Seen {
  const seen = new Seen()
  let stopped = false
  let request: http.ClientRequest
  const open = () => {
    let text = ''
    let opened = false
    const end = (how: string) => {
      if (stopped) return
      if (opened) seen.ends.push(how)
      else seen.failures.push(how)
      setTimeout(open, PAUSE_MS)
    }
    request = http.get(url, { agent: false, headers: { accept: 'text/event-stream' } }, response => {
      opened = true
      seen.opened++
      if (response.statusCode !== 200) seen.failures.push(`status ${response.statusCode}`)
      response.setEncoding('utf8').on('data', chunk => {
        const events = `${text}${chunk}`.split('\n\n')
        text = events.pop()!
        for (const event of events) if (event.startsWith('data: ')) seen.message(pidIn(event))
      })
      response.once('error', () => {})
      response.once('close', () => {
        if (text !== '') seen.failures.push(`half an event: ${text}`)
        end(response.complete ? 'whole' : 'cut')
      })
    })
    request.once('error', error => {
      if (!opened) end(error.message)
    })
  }
  open()
  onTestFinished(() => {
    stopped = true
    request.destroy()
  })
  return seen
}

/** A client of socket.io, with its own reconnection. The client asks one question after the other, and repeats one that was not answered. */
export async function socketIoClient(
  url: string,
  modules: string,
  transports: readonly string[] | undefined,
): Promise<Seen> {
  const { io } = await import(pathToFileURL(join(modules, 'socket.io-client/build/esm/index.js')).href)
  const seen = new Seen()
  const options = { forceNew: true, retries: 10, ackTimeout: 5_000, reconnectionDelay: PAUSE_MS }
  const client = io(url, { ...options, ...(transports !== undefined && { transports }) })
  let stopped = false
  onTestFinished(() => {
    stopped = true
    client.close()
  })
  client.on('connect', () => seen.opened++)
  client.on('connect_error', (error: Error) => seen.failures.push(error.message))
  client.on('disconnect', (reason: string) => stopped || seen.ends.push(reason))
  const ask = () => {
    const text = `question ${seen.messages}`
    client.emit('echo', text, (error: Error | null, reply: string) => {
      if (stopped) return
      if (error !== null || !reply.startsWith(`${text} to pid `)) seen.failures.push(error?.message ?? reply)
      seen.message(pidIn(reply))
      setTimeout(ask, PAUSE_MS)
    })
  }
  ask()
  return seen
}
