// @ts-check
import { randomInt } from 'node:crypto'
import { createServer } from 'node:net'

/** Below those that the kernel gives to clients and tests take: a server of another process would get one of the kernel's choice before it is used. */
const PORTS = { from: 6_000, to: 12_000 }

/** A TCP port that was free a moment ago. @returns {Promise<number>} */
export async function freePort() {
  for (;;) {
    const port = randomInt(PORTS.from, PORTS.to)
    if (await isFree(port)) return port
  }
}

/** @param {number} port @returns {Promise<boolean>} */
function isFree(port) {
  return new Promise((resolve, reject) => {
    const probe = createServer()
    probe.on('error', error =>
      'code' in error && error.code === 'EADDRINUSE' ? resolve(false) : reject(error),
    )
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)))
  })
}
