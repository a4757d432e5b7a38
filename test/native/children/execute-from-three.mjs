// Becomes a shell with two sockets as 3 and 4, in the other order, after one try that fails; says what is open there, and what signals are ignored.
import { readdirSync, readlinkSync } from 'node:fs'
import { native } from './addon.mjs'

const [left, right] = native.socketPair()
const bytes = (...texts) => Buffer.from(texts.map(text => `${text}\0`).join(''))
const env = bytes('PATH=/bin:/usr/bin')
const targetsOf = () => readdirSync('/proc/self/fd').flatMap(fd => (fd < 1 ? [] : [`${fd} ${target(fd)}`]))
const target = fd => {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return '' // what has read the folder
  }
}
const before = targetsOf().join()
try {
  native.execute(bytes('/none', '', 'sh'), env, [right, left], 3)
} catch (error) {
  if (targetsOf().join() !== before) throw new Error(`${targetsOf()} were ${before}`, { cause: error })
}
// The event loop goes on over what had these numbers.
await new Promise(resolve => setTimeout(resolve, 1))
const names = [right, left].map(fd => readlinkSync(`/proc/self/fd/${fd}`))
process.stdout.write(`${names.join(' ')}\n`)
const line =
  'echo $(readlink /proc/$$/fd/3) $(readlink /proc/$$/fd/4); ls -m /proc/$$/fd; grep -E "^Sig(Blk|Ign)" /proc/self/status; grep flags /proc/$$/fdinfo/1'
native.execute(bytes('/bin/sh', '', 'sh', '-c', line), env, [right, left], 3)
