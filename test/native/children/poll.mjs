// A callback that throws, then an unref'd poll that must not keep the process alive.
import { native } from './addon.mjs'

const [a, b] = native.socketPair()
process.once('uncaughtException', error => {
  process.stdout.write(`uncaught: ${error.message}\n`)
})
let seen = 0
const poll = native.createPoll(b, events => {
  if (++seen === 1) throw new Error('from the callback')
  process.stdout.write(`still watching: ${events}\n`)
  poll.stop()
  const idle = native.createPoll(a, () => {})
  idle.start(1)
  idle.unref()
})
poll.start(2)
