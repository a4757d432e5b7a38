// Receives `sent` descriptors with `free` slots left below the limit; prints what arrived.
import { native } from './addon.mjs'

const [free, sent] = process.argv.slice(2).map(Number)
const [a, b] = native.socketPair()
const memory = native.memfd('sent')
const data = Buffer.from('x')
native.sendMessage(a, data, 0, 1, new Array(sent).fill(memory))

const filler = []
for (;;) {
  try {
    filler.push(native.dup(memory))
  } catch {
    break
  }
}
// Numbers below 3 that happen to be closed would be filled by the kernel too: only the slots that we free count.
native.closeMany(filler.splice(filler.length - free))
const got = native.receiveMessage(b, data, 0, 1)
const arrived = got.fds ?? []
const same = native.inspect(arrived).every(one => one.ino === native.inspect([memory])[0].ino)
native.closeMany(filler)
process.stdout.write(
  JSON.stringify({ bytes: got.bytes, arrived: arrived.length, truncated: got.truncated, same }),
)
