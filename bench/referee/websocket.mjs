// @ts-check
// WebSockets in the load: half of them stay open for the whole run, the others are closed by us after a few seconds and
// opened again. Each sends a message now and then and wants it back. A socket that ends otherwise is a loss.
import { WebSocket } from 'ws'

/** @typedef {import('./verdicts.mjs').Loss} Loss */

/** Before the next is tried after one that was lost. */
const REOPEN_MS = 250

/**
 * @param {object} options
 * @param {string} options.url
 * @param {number} options.count sockets open at a time
 * @param {number} [options.everyMs] between two messages of a socket
 * @param {number} [options.lifeMs] of those that do not stay
 * @param {number} [options.deadlineMs] an echo, or the answer to a close, later than this is `dropped`
 * @param {(kind: Loss, what: string, reason: string) => void} options.lost called for each loss
 */
export function startWebSockets({ url, count, everyMs = 200, lifeMs = 3000, deadlineMs = 5000, lost }) {
  let opened = 0
  let messages = 0
  let stopping = false
  /** @type {Set<{ stop: () => Promise<void> }>} */
  const sockets = new Set()

  /** @param {boolean} stays */
  function open(stays) {
    const name = `WebSocket ${++opened}${stays ? ' (stays)' : ''}`
    const begun = performance.now()
    const socket = new WebSocket(url, { perMessageDeflate: false, handshakeTimeout: deadlineMs })
    /** @type {{ text: string, due: number }[]} */
    const waiting = []
    let sent = 0
    let settled = false
    let closing = false
    /** @type {NodeJS.Timeout | undefined} */
    let timer
    /** @type {(value?: unknown) => void} */
    let done = () => {}
    const ended = new Promise(resolve => {
      done = resolve
    })

    /** @param {Loss} kind @param {string} reason */
    function fail(kind, reason) {
      if (settled) return
      settled = true
      const age = ((performance.now() - begun) / 1000).toFixed(1)
      lost(kind, name, `${reason}, after ${age} s and ${sent} messages`)
      socket.terminate()
    }

    function beat() {
      const now = performance.now()
      const first = waiting[0]
      if (first && now > first.due) fail('dropped', `no echo within ${deadlineMs} ms`)
      else if (!stays && !stopping && now - begun > lifeMs && waiting.length === 0) void stop()
      else if (!closing && socket.readyState === WebSocket.OPEN) {
        const text = `${name}: ${++sent}`
        waiting.push({ text, due: now + deadlineMs })
        socket.send(text)
      }
    }

    async function stop() {
      closing = true
      // A close during the opening would make the opening fail. The handshake has a deadline.
      while (socket.readyState === WebSocket.CONNECTING) await new Promise(resolve => setTimeout(resolve, 10))
      const until = performance.now() + deadlineMs
      while (waiting.length > 0 && !settled && performance.now() < until)
        await new Promise(resolve => setTimeout(resolve, 10))
      if (waiting.length > 0) fail('dropped', `${waiting.length} echoes are missing`)
      socket.close(1000)
      setTimeout(() => fail('dropped', 'the close was not answered'), deadlineMs).unref()
      await ended
    }

    socket.on('open', () => {
      timer = setInterval(beat, everyMs)
    })
    socket.on('message', data => {
      const text = data.toString()
      const wanted = waiting.shift()?.text
      if (text === wanted) messages++
      else fail('wrong', `got ${JSON.stringify(text.slice(0, 40))} where ${JSON.stringify(wanted)} was due`)
    })
    socket.on('unexpected-response', (_request, response) =>
      fail('wrong', `status ${response.statusCode}, wanted 101`),
    )
    socket.on('error', error => {
      const { code = error.message } = /** @type {NodeJS.ErrnoException} */ (error)
      fail(code === 'ECONNREFUSED' ? 'refused' : 'reset', code)
    })
    socket.on('close', code => {
      clearInterval(timer)
      if (!closing || code !== 1000) fail('truncated', `closed with ${code}`)
      const failed = settled
      settled = true
      sockets.delete(self)
      done()
      if (!stopping) setTimeout(() => stopping || open(stays), failed ? REOPEN_MS : 0)
    })
    const self = { stop }
    sockets.add(self)
  }

  for (let n = 0; n < count; n++) open(n % 2 === 0)

  return {
    report: () => ({ open: sockets.size, opened, messages }),
    async stop() {
      stopping = true
      await Promise.all([...sockets].map(socket => socket.stop()))
    },
  }
}
