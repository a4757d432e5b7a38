// Gives a socket to another user without the right to: prints the error, and whether the path was left.
import { existsSync } from 'node:fs'
import { native } from './addon.mjs'

if (process.getuid() === 0) {
  process.setgroups([])
  process.setgid(65534)
  process.setuid(65534)
}
const path = process.argv[2]
try {
  native.bindSocket({ kind: 'unix', host: path, backlog: 1, mode: 0o600, uid: 1 })
  process.stdout.write('bound')
} catch (error) {
  process.stdout.write(`${error.code} ${error.syscall} ${existsSync(path)}`)
}
