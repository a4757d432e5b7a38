// @ts-check
// Loaded into a proxy with NODE_OPTIONS="--import …/watch.mjs": how late its event loop is, and how much of that is its own work.
// Writes to FDB_WATCH/PID a line each 20 ms: end of the time that it is about (ms since 1970), the most that a timer was
// late, the most CPU time that the main thread had between two looks, the most that it waited for a processor, and all CPU
// time that it had (ms each).
import { openSync, readSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { isMainThread } from 'node:worker_threads'

const LOOK_MS = 2
const LINE_MS = 20

const folder = process.env.FDB_WATCH
if (folder !== undefined && isMainThread) {
  const out = openSync(join(folder, String(process.pid)), 'a')
  const schedule = openSync(`/proc/self/task/${process.pid}/schedstat`, 'r')
  const bytes = Buffer.alloc(128)
  /** CPU time and time in the run queue of the main thread, in ms. */
  const look = () => {
    const text = bytes.toString('latin1', 0, readSync(schedule, bytes, 0, bytes.length, 0))
    const [ran = 0, waited = 0] = text.split(' ').map(Number)
    return { at: performance.now(), ran: ran / 1e6, waited: waited / 1e6 }
  }
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
    const most = [late, ran, waited, now.ran - line.ran].map(ms => ms.toFixed(2))
    writeSync(out, `${Date.now()} ${most.join(' ')}\n`)
    line = now
    late = ran = waited = 0
  }, LOOK_MS).unref()
}
