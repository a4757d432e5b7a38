// @ts-check
// One peer, its clients, and its changes of version.
import { spawn } from 'node:child_process'
import http from 'node:http'
import { fileURLToPath } from 'node:url'
import { freePort } from '../free-port.mjs'
import { median } from '../median.mjs'
import { answers, rest } from '../proxy/processes.mjs'
import { spawnClients } from '../referee/remote.mjs'
import { hasEnded } from '../unrelated.mjs'

/** Where nothing is told: p99 inside is that of the first seconds after the order. */
const WINDOW_MS = 4000
const READY_MS = 20_000
const SLOW_MS = 3000
const EVENTS_MS = 100
const LOOK_MS = 250
const REASONS = 3

/**
 * @typedef {{ upgrades: number, seconds: number, rate: number, idle: number, slow: number, events: number, oldS: number }} Load
 *
 * @typedef {object} Seen
 * @property {number} answered
 * @property {number} failed requests of `steady`, idle and slow clients
 * @property {number} closed connections that were to stay, announced or not
 * @property {number} cut streams and slow answers that ended too early
 * @property {string[]} reasons of the first losses of each kind of clients
 * @property {number} firstMs from the order to the first answer of the next version, median; NaN: it does not say which version answers
 * @property {number} oldS seconds from the order until the processes before have ended, median; Infinity: within `oldS` they did not
 * @property {number} outside p99 in ms between upgrades, median
 * @property {number} inside p99 in ms in the first seconds after the order, median
 * @property {number} cpuUs processor time of a request between upgrades
 * @property {number} memoryMiB between upgrades
 * @property {number} peakMiB the most while two versions live
 * @property {string[]} failures of orders, as the peer tells them
 */

/**
 * @param {import('./peers.mjs').Peer} peer
 * @param {string} folder an empty one
 * @param {Load} load
 * @param {(what: string) => void} say
 * @returns {Promise<Seen>}
 */
export async function measure(peer, folder, load, say) {
  const behind = await freePort()
  const server = peer.kind === 'proxy' ? startBehind(behind) : null
  if (server) await answers(behind)
  const port = await freePort()
  const running = peer.start({ folder, port, behind })
  /** @type {ReturnType<typeof spawnClients>[]} */
  const clients = []
  try {
    await answers(port)
    const steady = spawnClients('steady', { port, rate: load.rate })
    clients.push(steady)
    clients.push(spawnClients('idle', { port, count: load.idle, everyMs: 10_000 }))
    clients.push(spawnClients('slow', { port, count: load.slow, ms: SLOW_MS }))
    clients.push(spawnClients('events', { port, count: load.events, everyMs: EVENTS_MS }))
    for (const each of clients) await each.ready(READY_MS)
    const seen = await replaceUnderLoad(running, port, steady, load, say)
    say('the last answers')
    const reports = await Promise.all(clients.map(each => each.stop()))
    return { ...seen, ...lossesOf(reports) }
  } finally {
    for (const each of clients) each.kill()
    running.end()
    server?.kill('SIGKILL')
  }
}

/** Returns the last line of an error. @param {any} error */
function errorText(error) {
  const [line = ''] = `${error.stderr || error.message}`.trim().split('\n').slice(-1)
  return line.slice(0, 200)
}

/** @param {number} port */
function startBehind(port) {
  const file = fileURLToPath(new URL('servers/behind.mjs', import.meta.url))
  return spawn(process.execPath, [file, String(port)], { stdio: ['pipe', 'ignore', 'inherit'] })
}

/**
 * @param {import('./peers.mjs').Running} running @param {number} port @param {ReturnType<typeof spawnClients>} steady @param {Load} load
 * @param {(what: string) => void} say
 */
async function replaceUnderLoad({ family, replace }, port, steady, load, say) {
  /** @type {{ outside: number[], inside: number[], first: number[], old: number[], cpu: number[], memory: number[], peak: number[], failures: string[] }} */
  const each = { outside: [], inside: [], first: [], old: [], cpu: [], memory: [], peak: [], failures: [] }
  await rest(2000)
  for (let n = 1; n <= load.upgrades; n++) {
    say(`upgrade ${n} of ${load.upgrades}`)
    await steady.mark('outside')
    const cpuBefore = family.cpuMs
    await rest(load.seconds * 1000)
    const cpuMs = family.cpuMs - cpuBefore
    const outside = await steady.mark('inside')
    each.outside.push(outside.p99)
    each.cpu.push((cpuMs * 1000) / (outside.perSecond * load.seconds))
    each.memory.push(family.memoryMiB)
    const before = family.pids
    const generation = await generationAt(port)
    const began = performance.now()
    const first = firstOther(port, generation, began)
    const replaced = replace().then(() => '', errorText)
    let peak = 0
    let old = Number.POSITIVE_INFINITY
    let insideMs = /** @type {number | null} */ (null)
    for (;;) {
      const ms = performance.now() - began
      peak = Math.max(peak, family.memoryMiB)
      if (insideMs === null && ms >= WINDOW_MS) {
        insideMs = ms
        each.inside.push((await steady.mark('after')).p99)
      }
      if (old === Number.POSITIVE_INFINITY && changed(before, family.pids)) old = ms / 1000
      if (insideMs !== null && (old !== Number.POSITIVE_INFINITY || ms > load.oldS * 1000)) break
      await rest(LOOK_MS)
    }
    const failure = await replaced
    if (failure !== '') each.failures.push(failure)
    each.first.push(await first)
    each.old.push(old)
    each.peak.push(peak)
  }
  return {
    firstMs: median(each.first),
    oldS: median(each.old),
    outside: median(each.outside),
    inside: median(each.inside),
    cpuUs: median(each.cpu),
    memoryMiB: median(each.memory),
    peakMiB: median(each.peak),
    failures: each.failures,
  }
}

/** Whether a process that serves clients has ended: as many live as before, but others. @param {number[]} before @param {number[]} now */
function changed(before, now) {
  const left = before.filter(pid => !hasEnded(pid))
  return left.length < before.length && now.length <= before.length
}

/** @param {number} port @returns {Promise<string>} '' if the answer does not say it, or there is none */
function generationAt(port) {
  return new Promise(resolve => {
    const request = http.get({ port, host: '127.0.0.1', agent: false, timeout: 5000 }, response => {
      resolve(String(response.headers['x-gen'] ?? ''))
      response.resume()
    })
    request.on('timeout', () => request.destroy())
    request.on('error', () => resolve(''))
  })
}

/** Milliseconds until another version answers; NaN if none says so. @param {number} port @param {string} generation @param {number} began */
async function firstOther(port, generation, began) {
  if (generation === '') return Number.NaN
  while (performance.now() - began < READY_MS) {
    const now = await generationAt(port)
    if (now !== '' && now !== generation) return performance.now() - began
    await rest(5)
  }
  return Number.NaN
}

/** @param {import('../referee/remote.mjs').ClientsReport[]} reports */
function lossesOf(reports) {
  const losses = { answered: 0, failed: 0, closed: 0, cut: 0, reasons: /** @type {string[]} */ ([]) }
  for (const { kind, counts, incidents } of reports) {
    const told = incidents.slice(0, REASONS).map(({ kind: loss, reason }) => `${kind}: ${loss}, ${reason}`)
    losses.reasons.push(...new Set(told))
    losses.answered += counts.answered
    if (kind === 'slow' || kind === 'events') losses.cut += counts.failed + counts.closed + counts.wrong
    else {
      losses.failed += counts.failed + counts.wrong
      losses.closed += counts.closed
    }
  }
  return losses
}
