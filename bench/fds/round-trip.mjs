// @ts-check
// One descriptor there and back: a Channel between two processes, and child_process.send with a server handle.
import { fork } from 'node:child_process'
import { createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { closeAll, OwnedFd } from '../../build/modules/kernel/index.js'
import { native } from '../../build/modules/kernel/native.js'
import { Channel } from '../../build/modules/wire/channel.js'
import { startPeer } from './pair.mjs'

const peer = fileURLToPath(new URL('peer.mjs', import.meta.url))

/** @typedef {{ run: (times: number) => Promise<number[]>, close: () => void }} RoundTrip milliseconds each */

/** @returns {RoundTrip} */
export function overChannel() {
  const [mine, other] = native.socketPair()
  const child = startPeer('echo', other)
  const channel = new Channel(OwnedFd.own(mine, 'channel'))
  const listener = OwnedFd.own(
    native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 1 }),
    'listener',
  )
  const payload = Buffer.from('a round trip')
  /** @type {() => void} */
  let back = () => {}
  channel.start({
    message(_, fds) {
      if (fds.length !== 1) throw new Error(`${fds.length} descriptors came back`)
      closeAll(fds)
      back()
    },
    end: () => {},
  })
  return {
    run: times =>
      repeat(times, done => {
        back = done
        channel.send(payload, [listener])
      }),
    close() {
      channel.close()
      closeAll([listener])
      child.disconnect()
    },
  }
}

/** @returns {Promise<RoundTrip>} */
export async function overChildProcess() {
  const child = fork(peer, ['ipc-echo'], { stdio: ['ignore', 'inherit', 'inherit', 'ignore', 'ipc'] })
  const server = createServer()
  await new Promise(resolve => server.listen(0, '127.0.0.1', () => resolve(null)))
  /** @type {() => void} */
  let back = () => {}
  child.on('message', (_, handle) => {
    const copy = /** @type {import('node:net').Server} */ (handle)
    copy.close()
    back()
  })
  return {
    run: times =>
      repeat(times, done => {
        back = done
        child.send('a round trip', server)
      }),
    close() {
      server.close()
      child.disconnect()
    },
  }
}

/** One after the other. @param {number} times @param {(done: () => void) => void} once */
async function repeat(times, once) {
  /** @type {number[]} */
  const all = []
  for (let at = 0; at < times; at++) {
    const begun = performance.now()
    await new Promise(resolve => once(() => resolve(null)))
    all.push(performance.now() - begun)
  }
  return all
}
