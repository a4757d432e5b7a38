// @ts-check
// node:cluster with one worker. SIGHUP starts a next worker, and disconnects the worker before it when the next one listens.
import cluster from 'node:cluster'
import { fileURLToPath } from 'node:url'

const LIMIT_MS = 10_000

cluster.setupPrimary({ exec: fileURLToPath(new URL('plain.mjs', import.meta.url)) })
let serving = cluster.fork()
process.on('SIGHUP', () => {
  const before = serving
  serving = cluster.fork()
  serving.once('listening', () => {
    before.disconnect()
    const limit = setTimeout(() => before.kill('SIGKILL'), LIMIT_MS)
    before.once('exit', () => clearTimeout(limit))
  })
})
