// @ts-check
// One of the two processes under test: node peer.mjs ROLE; its end of the socket pair is descriptor 3.
//
//   send, receive   the same system calls as baseline.c; each run is told by an IPC message
//   echo            a Channel that sends each message and its descriptors back
//   ipc-echo        the same with child_process.send

import { closeAll, inspect, OwnedFd } from '../../build/modules/kernel/index.js'
import { native, READABLE, WRITABLE } from '../../build/modules/kernel/native.js'
import { verifyIdentity } from '../../build/modules/listeners/identity.js'
import { Channel } from '../../build/modules/wire/channel.js'

/**
 * @typedef {'raw' | 'owned' | 'verified'} Mode
 * @typedef {{ mode: Mode, count: number, messages: number, window: number }} Run
 * @typedef {import('../../build/modules/kernel/native.js').Inspected[]} Manifest
 */

const SOCKET = 3
const MESSAGE = Buffer.alloc(64)
const role = process.argv[2]

/** Tells the parent. @param {unknown} message */
const tell = message => process.send?.(message)

/** Listeners to send, made once; and what the other side will see of them. */
function makeListeners() {
  const bind = () => native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 1 })
  const fds = Array.from({ length: 253 }, bind)
  tell({ manifest: native.inspect(fds) })
  return fds
}

/** @param {number[]} listeners @param {Run} run */
function runSender(listeners, { count, messages, window }) {
  const fds = listeners.slice(0, count)
  const acks = Buffer.alloc(256)
  let sent = 0
  let acknowledged = 0
  const poll = native.createPoll(SOCKET, () => {
    for (;;) {
      const { bytes } = native.receiveMessage(SOCKET, acks, 0, acks.length)
      if (bytes === 0) throw new Error('the receiver has gone')
      if (bytes < 0) break
      for (let at = 0; at < bytes; at++) acknowledged += acks[at] ?? 0
    }
    if (acknowledged === messages) return poll.close()
    fill()
  })
  function fill() {
    let blocked = false
    while (!blocked && sent < messages && sent - acknowledged < window) {
      if (native.sendMessage(SOCKET, MESSAGE, 0, MESSAGE.length, fds) < 0) blocked = true
      else sent++
    }
    poll.start(blocked ? READABLE | WRITABLE : READABLE)
  }
  fill()
}

/** @param {Manifest} manifest @param {Run} run */
function runReceiver(manifest, { mode, count, messages }) {
  const into = Buffer.alloc(64 * 1024)
  const ack = Buffer.alloc(1)
  const warm = Math.floor(messages / 10)
  let received = 0
  let begun = performance.now()
  const poll = native.createPoll(SOCKET, () => {
    let fresh = 0
    for (;;) {
      const { bytes, fds, truncated } = native.receiveMessage(SOCKET, into, 0, into.length)
      if (bytes < 0) break
      if (bytes !== MESSAGE.length || fds?.length !== count || truncated) throw new Error('not what was sent')
      if (mode === 'raw') native.closeMany(fds)
      else take(fds, mode === 'verified' ? manifest : null)
      fresh++
      if (++received === warm) begun = performance.now()
    }
    ack[0] = fresh
    if (fresh > 0) native.sendMessage(SOCKET, ack, 0, 1, null)
    if (received < messages) return
    poll.close()
    tell({ seconds: (performance.now() - begun) / 1000 })
  })
  poll.start(READABLE)
}

/** An owner object for each, all verified against the manifest, all closed. @param {number[]} fds @param {Manifest | null} manifest */
function take(fds, manifest) {
  const owned = fds.map(fd => OwnedFd.own(fd, 'bench'))
  if (manifest) {
    inspect(owned).forEach((seen, at) => {
      const difference = verifyIdentity(/** @type {Manifest[number]} */ (manifest[at]), seen)
      if (difference !== null) throw new Error(difference)
    })
  }
  closeAll(owned)
}

if (role === 'send') {
  const listeners = makeListeners()
  process.on('message', run => runSender(listeners, /** @type {Run} */ (run)))
} else if (role === 'receive') {
  process.once('message', given => {
    const { manifest } = /** @type {{ manifest: Manifest }} */ (given)
    process.on('message', run => {
      runReceiver(manifest, /** @type {Run} */ (run))
      tell({ ready: true })
    })
  })
} else if (role === 'echo') {
  const channel = new Channel(OwnedFd.own(SOCKET, 'channel'))
  channel.start({
    message: (payload, fds) => void channel.send(payload, fds).then(() => closeAll(fds)),
    end: () => process.exit(),
  })
} else if (role === 'ipc-echo') {
  process.on('message', (message, handle) => {
    process.send?.(message, handle, { keepOpen: false })
  })
} else {
  throw new Error(`no such role: ${role}`)
}
process.on('disconnect', () => process.exit())
