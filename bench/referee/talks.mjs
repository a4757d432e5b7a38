// @ts-check
// WebSockets and plain TCP connections on which both ends talk (talk.mjs), as clients.
import { connect } from 'node:net'
import { AnswerReader } from './answer.mjs'
import { Talkers } from './talkers.mjs'
import { ending, lossOf } from './verdicts.mjs'

const OPENING_AT_ONCE = 64
const STOP_MS = 30_000
const INTO = Buffer.allocUnsafe(64 * 1024)

/**
 * @typedef {object} TalksOptions
 * @property {'ws' | 'tcp'} framing
 * @property {import('node:net').TcpNetConnectOpts} target
 * @property {number} count
 * @property {number} [full] so many of them say all they can, the others chat (0)
 * @property {number} [everyMs] between two messages of one that chats
 * @property {import('./verdicts.mjs').Verdicts} verdicts
 */

/** @param {TalksOptions} options */
export function startTalks({ framing, target, count, full = 0, everyMs = 500, verdicts }) {
  const talkers = new Talkers(everyMs)
  /** Talks that have not ended. */
  let left = 0
  let begun = 0
  let opening = 0

  function open() {
    while (opening < OPENING_AT_ONCE && begun < count) {
      opening++
      left++
      let counted = false
      openTalk(begun++, () => {
        if (counted) return
        counted = true
        opening--
        open()
      })
    }
  }

  /** @param {number} number @param {() => void} opened */
  function openTalk(number, opened) {
    const manner = number < full ? 'full' : 'chat'
    const seed = framing === 'ws' ? number : 1_000_000 + number
    /** @type {import('./talkers.mjs').Talker | null} */
    let talker = null
    let over = false
    let connected = false
    const reply = new AnswerReader()

    /** @param {import('./verdicts.mjs').Kind} kind @param {string} reason */
    const end = (kind, reason) => {
      if (over) return
      verdicts.note(kind, `${framing} ${number}`, reason)
      leave()
    }
    const leave = () => {
      if (over) return
      over = true
      left--
      socket.destroy()
      opened()
    }
    const begin = () => {
      talker = talkers.add(socket, { end: 'client', framing, seed, manner })
      verdicts.seen.opened++
      opened()
    }
    const callback = (/** @type {number} */ length) => {
      if (over) return true
      let chunk = INTO.subarray(0, length)
      if (talker === null) {
        const taken = reply.feed(chunk)
        if (!reply.hasHead && reply.broken === '') return true
        if (reply.status !== 101) {
          end('denied', reply.broken || `status ${reply.status}, wanted 101`)
          return true
        }
        begin()
        chunk = chunk.subarray(taken)
      }
      return chunk.length === 0 || heard(chunk)
    }
    const heard = (/** @type {Buffer} */ chunk) => {
      if (talker === null) return true
      const { talk } = talker
      const before = talk.heard
      const goOn = talkers.heard(talker, chunk)
      verdicts.seen.messages += talk.heard - before
      verdicts.seen.bytes += chunk.length
      if (talk.wrong !== '') end('wrong', talk.wrong)
      else if (talk.otherEnded && !talk.ended) end('wrong', 'the other end said that it was over')
      return goOn
    }
    const socket = connect({
      ...target,
      noDelay: true,
      allowHalfOpen: true,
      onread: { buffer: INTO, callback },
    })
    socket.on('connect', () => {
      connected = true
      if (framing === 'ws')
        socket.write(
          `GET /talk/${seed}/${manner} HTTP/1.1\r\nHost: clients.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${Buffer.from(String(seed).padStart(16, '0')).toString('base64')}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
        )
      else {
        socket.write(`talk ${seed} ${manner}\n`)
        begin()
      }
    })
    const gone = (/** @type {Error | null} */ error) => {
      if (over) return
      const how = ending(error)
      if (talker === null) {
        end(lossOf(error, { connected, begun: reply.begun, answered: 0 }), `not opened: ${how}`)
      } else if (talker.talk.otherEnded && error === null) leave()
      else if (talker.talk.ended) end('truncated', `${how} before the other end had said all`)
      else end('truncated', `${how} after ${talker.talk.heard} messages heard, ${talker.talk.said} said`)
    }
    socket.on('end', () => gone(null))
    socket.on('error', gone)
    socket.on('close', () => gone(null))
  }
  open()

  return {
    get ready() {
      return begun === count && opening === 0
    },
    get open() {
      return left
    },
    /** Both ends of each come to their end: whatever was on the way has been looked at then. The other end must be relaxed. */
    async stop() {
      talkers.relax()
      for (const { talk } of talkers.all) {
        talk.end()
      }
      const until = performance.now() + STOP_MS
      while (left > 0 && performance.now() < until) await new Promise(resolve => setTimeout(resolve, 20))
      if (left > 0) verdicts.note('dropped', 'all', `${left} talks did not come to their end`)
      for (const { socket } of talkers.all) socket.destroy()
      talkers.close()
    },
  }
}
