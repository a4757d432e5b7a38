// @ts-check
// The server behind the proxy that clients talk to: node bench/referee/backend.mjs; says its ports on stdout as
// {"http":N,"tcp":N}. The server knows the right bytes of each client, and notes every request by its number, so that one that
// comes twice is seen.
//
//   GET /slow/ID?ms=3000          an answer after so long
//   GET /events/ID?every=100      server-sent events without end
//   PUT /upload/ID/BYTES          `ok BYTES` when every byte was right
//   GET /download/ID/BYTES        so many, by length or with ?chunked
//   GET /drip/ID/BYTES            the same, in little pieces with pauses
//   POST /echo/ID                 the body that came
//   GET /talk/SEED/MANNER         a talk over a WebSocket; over TCP after the line `talk SEED MANNER`
//   GET /report, POST /relax      what was seen; full talks are read at once from now on
import { createHash } from 'node:crypto'
import http from 'node:http'
import net from 'node:net'
import { eventText, MOST, mixed, PatternCheck, patternAt } from './pattern.mjs'
import { Talkers } from './talkers.mjs'

const MAGIC = '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

/** The requests and talks that the server has seen. */
class Seen {
  requests = 0
  /** Requests that came twice. */
  twice = 0
  /** Talks that ended before both ends had said so, and what was wrong in talks and uploads. */
  broken = 0
  wrong = 0
  messages = 0
  bytes = 0
  /** @type {string[]} the first few */
  reasons = []
  /** @type {Set<string>} */
  #known = new Set()

  /** @param {string} kind @param {string} id */
  request(kind, id) {
    this.requests++
    const name = `${kind}/${id}`
    if (this.#known.has(name)) {
      this.twice++
      this.#why(`${name} came twice`)
    }
    this.#known.add(name)
  }

  /** @param {'broken' | 'wrong'} what @param {string} reason */
  note(what, reason) {
    this[what]++
    this.#why(reason)
  }

  /** @param {string} reason */
  #why(reason) {
    if (this.reasons.length < 20) this.reasons.push(reason)
  }
}

/** @param {{ everyMs?: number }} [options] between two messages of a talk that chats */
export async function startBackend({ everyMs = 500 } = {}) {
  const seen = new Seen()
  const talkers = new Talkers(everyMs)
  /** @type {Set<net.Socket>} */
  const open = new Set()

  const server = http.createServer({ keepAliveTimeout: 600_000, requestTimeout: 0 }, (request, response) => {
    answer(request, response).catch(error => response.destroy(error))
  })
  server.on('connection', keep)
  server.on('upgrade', (request, /** @type {net.Socket} */ socket, head) => {
    const [, , seed = '', manner = ''] = (request.url ?? '').split('/')
    const key = `${request.headers['sec-websocket-key']}${MAGIC}`
    const accept = createHash('sha1').update(key).digest('base64')
    socket.write(
      `HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`,
    )
    talk(socket, 'ws', seed, manner, head)
  })
  const tcp = net.createServer({ allowHalfOpen: true, noDelay: true }, socket => {
    keep(socket)
    let text = ''
    const first = (/** @type {Buffer} */ chunk) => {
      text += chunk.toString('latin1')
      const end = text.indexOf('\n')
      if (end < 0) return
      socket.off('data', first)
      const [, seed = '', manner = ''] = text.slice(0, end).split(' ')
      talk(socket, 'tcp', seed, manner, Buffer.from(text.slice(end + 1), 'latin1'))
    }
    socket.on('data', first)
  })

  /** @param {net.Socket} socket */
  function keep(socket) {
    open.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => open.delete(socket))
  }

  /** @param {net.Socket} socket @param {'ws' | 'tcp'} framing @param {string} seed @param {string} manner @param {Buffer} head */
  function talk(socket, framing, seed, manner, head) {
    seen.request(`${framing} talk`, seed)
    const name = `${framing} talk ${seed}`
    const how = manner === 'full' ? 'full' : 'chat'
    const talker = talkers.add(socket, { end: 'server', framing, seed: Number(seed), manner: how })
    const { talk } = talker
    const hear = (/** @type {Buffer} */ chunk) => {
      const before = talk.heard
      if (!talkers.heard(talker, chunk)) socket.pause()
      seen.messages += talk.heard - before
      seen.bytes += chunk.length
      if (talk.wrong !== '') {
        seen.note('wrong', `${name}: ${talk.wrong}`)
        socket.destroy()
      } else if (talk.otherEnded && !talk.ended) {
        talk.end()
        socket.end()
      }
    }
    socket.on('data', hear)
    socket.on('close', () => {
      if (!talk.otherEnded && talk.wrong === '')
        seen.note('broken', `${name} ended after ${talk.heard} messages`)
    })
    if (head.length > 0) hear(head)
  }

  /** @param {http.IncomingMessage} request @param {http.ServerResponse} response */
  async function answer(request, response) {
    const url = new URL(request.url ?? '/', 'http://backend')
    const [, page = '', id = '', number = ''] = url.pathname.split('/')
    if (page === 'slow') {
      seen.request(page, id)
      await pause(Number(url.searchParams.get('ms')))
      sendText(response, `${id} slow but sure\n`)
    } else if (page === 'events') {
      seen.request(page, id)
      response.setHeader('content-type', 'text/event-stream')
      let event = 0
      response.write(eventText(id, event++))
      const timer = setInterval(
        () => response.write(eventText(id, event++)),
        Number(url.searchParams.get('every')),
      )
      response.on('close', () => clearInterval(timer))
    } else if (page === 'upload') {
      seen.request(page, id)
      const check = new PatternCheck(Number(id))
      for await (const chunk of request) {
        seen.bytes += chunk.length
        if (!check.feed(chunk)) break
      }
      const right = check.wrongAt < 0 && check.position === Number(number)
      if (!right) seen.note('wrong', `upload ${id}: ${check.position} bytes, wrong at ${check.wrongAt}`)
      sendText(response, right ? `ok ${number}\n` : 'wrong\n')
    } else if (page === 'download') {
      seen.request(page, id)
      await send(response, Number(id), Number(number), url.searchParams.has('chunked'), false)
    } else if (page === 'drip') {
      seen.request(page, id)
      await send(response, Number(id), Number(number), url.searchParams.has('chunked'), true)
    } else if (page === 'echo') {
      seen.request(page, id)
      const pieces = []
      for await (const piece of request) pieces.push(piece)
      const body = Buffer.concat(pieces)
      response.setHeader('content-length', body.length)
      response.end(body)
    } else if (page === 'report') {
      const { requests, twice, broken, wrong, messages, bytes, reasons } = seen
      sendText(response, JSON.stringify({ requests, twice, broken, wrong, messages, bytes, reasons }))
    } else if (page === 'relax') {
      talkers.relax()
      sendText(response, 'ok\n')
    } else {
      response.statusCode = 404
      sendText(response, 'no such page\n')
    }
  }

  const ports = await Promise.all(
    [server, tcp].map(
      each =>
        new Promise((resolve, reject) => {
          each.once('error', reject)
          each.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => resolve(portOf(each)))
        }),
    ),
  )
  return {
    http: Number(ports[0]),
    tcp: Number(ports[1]),
    seen,
    close() {
      talkers.close()
      for (const socket of open) socket.destroy()
      server.close()
      tcp.close()
    },
  }
}

/** @param {http.ServerResponse} response @param {string} text */
function sendText(response, text) {
  response.setHeader('content-length', text.length)
  response.end(text)
}

/** @param {http.ServerResponse} response @param {number} seed @param {number} size @param {boolean} chunked @param {boolean} slowly */
async function send(response, seed, size, chunked, slowly) {
  if (!chunked) response.setHeader('content-length', size)
  const gone = new Promise(resolve => response.once('close', resolve))
  for (let at = 0; at < size && !response.destroyed; ) {
    const length = Math.min(slowly ? 1 + (mixed(seed, at) % 500) : MOST, size - at)
    if (slowly) await pause(mixed(at, seed) % 30)
    const taken = response.write(patternAt(seed, at, length))
    at += length
    if (!taken) await Promise.race([gone, new Promise(resolve => response.once('drain', resolve))])
  }
  response.end()
}

/** @param {net.Server} server */
function portOf(server) {
  const address = server.address()
  return typeof address === 'object' && address ? address.port : 0
}

/** @param {number} ms */
function pause(ms) {
  return new Promise(resolve => setTimeout(resolve, ms))
}

if (process.argv[1] === import.meta.filename) {
  const [everyMs] = process.argv.slice(2)
  const { http, tcp } = await startBackend(everyMs === undefined ? {} : { everyMs: Number(everyMs) })
  console.log(JSON.stringify({ http, tcp }))
  // The parent has gone.
  process.stdin.on('end', () => process.exit()).resume()
}
