// Opens descriptors of every kind, watches some, tells how many it has, and stays until it is terminated or told to end.
import { parentPort } from 'node:worker_threads'
import { native } from './addon.mjs'

const [a, b] = native.socketPair()
const memory = native.memfd('worker')
native.reopenReadOnly(memory)
native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0, backlog: 5 })
const given = native.dup(memory)
native.release(given)
for (let i = 0; i < 50; i++) native.dup(memory)
const data = Buffer.alloc(8)
native.sendMessage(a, data, 0, 8, [memory, memory, memory])
native.receiveMessage(b, data, 0, 8)

const poll = native.createPoll(b, () => {})
poll.start(1)
const writable = native.createPoll(native.dup(a), () => {})
writable.start(2)
const stopped = native.createPoll(native.dup(b), () => {})
stopped.start(1)
stopped.stop()
native.createPoll(native.dup(b), () => {}).close()

// Freed at the end of the environment.
const keys = native.createKeys(1e9)
for (let i = 0; i < 1000; i++) native.setKey(keys, `key-${i}`, i)

parentPort.postMessage({ open: native.openCount(), given })
parentPort.on('message', how => {
  if (how === 'exit') process.exit(0)
  if (how === 'busy') for (;;);
})
