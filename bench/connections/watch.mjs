// @ts-check
// Loaded into a proxy with NODE_OPTIONS="--import …/watch.mjs": how late its event loop is, and how much of that is its own work.
// Writes to FDB_WATCH/PID a line each 20 ms: end of the time that it is about (ms since 1970), the most that a timer was
// late, the most CPU time that the main thread had between two looks, the most that it waited for a processor, and all CPU
// time that it had; then the most CPU time that the main thread spent in one turn on moves, without garbage collection and with it (ms each).
import { openSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { isMainThread } from 'node:worker_threads'

const LOOK_MS = 2
const LINE_MS = 20
/** In turns with less it is not looked for collections. */
const WORTH_MS = 2

const folder = process.env.FDB_WATCH
if (folder !== undefined && isMainThread) {
  const out = openSync(join(folder, String(process.pid)), 'a')
  const { Collections, look } = await import('../turns.mjs')
  const moves = await watchMoves(look, new Collections())
  let last = look()
  let line = last
  let [late, ran, waited] = [0, 0, 0]
  setInterval(() => {
    const now = look()
    late = Math.max(late, now.at - last.at - LOOK_MS)
    ran = Math.max(ran, now.ran - last.ran)
    waited = Math.max(waited, now.waited - last.waited)
    last = now
    if (now.at - line.at < LINE_MS) return
    const { alone, all } = moves()
    const most = [late, ran, waited, now.ran - line.ran, alone, all].map(ms => ms.toFixed(2))
    writeSync(out, `${Date.now()} ${most.join(' ')}\n`)
    line = now
    late = ran = waited = 0
  }, LOOK_MS).unref()
}

/**
 * Measures the moves of each turn: the main thread's own CPU time around each piece of work, and the collections that V8
 * reports. Returns a function that gives the most of one turn since its last call; 0 in a release without such work.
 * @param {typeof import('../turns.mjs').look} look
 * @param {import('../turns.mjs').Collections} collections
 */
async function watchMoves(look, collections) {
  /** @type {{ turn: number, ran: number, spans: { from: number, to: number, ran: number }[] }[]} */
  let turns = []
  const { TurnWork } = await import('../../build/modules/connections/counts.js').catch(() => ({
    TurnWork: null,
  }))
  if (TurnWork !== null) {
    const { run } = TurnWork.prototype
    let running = false
    /** @this {InstanceType<typeof TurnWork>} @param {() => any} work @returns {any} */
    TurnWork.prototype.run = function (work) {
      if (running) return run.call(this, work)
      running = true
      const before = look()
      try {
        return run.call(this, work)
      } finally {
        running = false
        const after = look()
        const ran = after.ran - before.ran
        const turn = /** @type {any} */ (performance.nodeTiming).uvMetricsInfo.loopCount
        if (turns.at(-1)?.turn !== turn) turns.push({ turn, ran: 0, spans: [] })
        const own = /** @type {typeof turns[number]} */ (turns.at(-1))
        own.ran += ran
        own.spans.push({ from: before.at, to: after.at, ran })
      }
    }
  }
  /** The turns before the last look: V8 reports its collections a moment later. @type {typeof turns} */
  let settled = []
  return () => {
    const most = { alone: 0, all: 0 }
    for (const { ran, spans } of settled) {
      let collecting = 0
      if (ran >= WORTH_MS)
        for (const { from, to, ran } of spans) collecting += Math.min(collections.within(from, to), ran)
      most.all = Math.max(most.all, ran)
      most.alone = Math.max(most.alone, ran - collecting)
    }
    settled = turns
    turns = []
    collections.forget(look().at - 10 * LINE_MS)
    return most
  }
}
