// @ts-check
// npm run bench -- tls: processor time of a server's process on TLS 1.3 connections that have moved, against those that Node's own TLS serves, in
// turns in one run: small requests, large answers, large uploads. The ratios count, each the median of several rounds.
// Options: --rounds 5 --requests 4000 --megabytes 256 --only small --json FILE
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { Agent, request } from 'node:https'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { median } from '../median.mjs'
import { Figures, Progress } from '../report.mjs'

const { values: flags } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    requests: { type: 'string', default: '4000' },
    megabytes: { type: 'string', default: '256' },
    only: { type: 'string' },
    json: { type: 'string' },
  },
})
const CONNECTIONS = 8
const BODY = Buffer.alloc(8 * 2 ** 20, 'x')
/** The most that a moved connection may need: the record layer is JavaScript around `node:crypto`. */
const MOST = { small: 2, answers: 3.5, uploads: 3.5 }
const large = (Number(flags.megabytes) * 2 ** 20) / BODY.length

const server = fork(fileURLToPath(new URL('server.mjs', import.meta.url)))

/** @param {string} what @returns {Promise<number>} */
async function tell(what) {
  const answer = once(server, 'message')
  server.send(what)
  const [value] = await answer
  return value
}

/** @param {Agent} agent @param {number} port @param {string} path @param {Buffer} [body] @returns {Promise<void>} */
function ask(agent, port, path, body) {
  const options = { port, host: '127.0.0.1', path, agent, method: body === undefined ? 'GET' : 'POST' }
  return new Promise((resolve, reject) => {
    const asked = request(options, response => {
      response.on('error', reject).on('end', resolve).resume()
    })
    asked.on('error', reject).end(body)
  })
}

/** Processor time of the server for `count` requests, in microseconds. @param {number} count @param {() => Promise<void>} one */
async function spent(count, one) {
  let left = count
  const before = await tell('cpu')
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      while (left-- > 0) await one()
    }),
  )
  return ((await tell('cpu')) - before) / count
}

const [port] = await once(server, 'message')
const progress = new Progress()
const figures = new Figures('tls')
const kinds = /** @type {const} */ ([
  ['small', Number(flags.requests), '/', undefined],
  ['answers', large, '/large', undefined],
  ['uploads', large, '/', BODY],
])
for (const [name, count, path, body] of kinds) {
  if (flags.only !== undefined && flags.only !== name) continue
  /** @type {number[][]} */
  const rounds = []
  for (let round = 0; round < Number(flags.rounds); round++) {
    const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS, rejectUnauthorized: false })
    const one = () => ask(agent, port, path, body)
    // From such a first request the server knows the numbers of the records.
    await spent(CONNECTIONS * 4, () => ask(agent, port, '/'))
    await spent(CONNECTIONS * 2, one)
    const native = await spent(count, one)
    const moved = await tell('move')
    if (moved !== CONNECTIONS) throw new Error(`${moved} of ${CONNECTIONS} connections have moved`)
    await spent(CONNECTIONS * 4, one)
    rounds.push([await spent(count, one), native])
    agent.destroy()
    progress.show([], `${name}: round ${round + 1}`)
  }
  const of = (/** @type {number} */ at) => median(rounds.map(times => times[at] ?? Number.NaN))
  figures.info(`${name}: native`, of(1), 'µs')
  figures.info(`${name}: moved`, of(0), 'µs')
  const ratio = median(rounds.map(([moved = Number.NaN, native = Number.NaN]) => moved / native))
  figures.add(`${name}: moved / native`, ratio, '', '<=', MOST[name])
}
server.disconnect()
figures.finish(flags.json)
