// @ts-check
// Members of a daemon for `npm run bench -- daemon`: members.mjs CONTROL FROM COUNT LISTENERS. Says `serve` when all of them do; goes on until it is killed.
import { join } from 'fd-broker'

const [control = '', ...rest] = process.argv.slice(2)
const [from = 0, count = 0, listeners = 0] = rest.map(Number)

for (let at = from; at < from + count; at++) {
  const member = await join({ service: `service-${at}`, control, hosting: 'daemon', timeout: 60_000 })
  await Promise.all(
    Array.from({ length: listeners }, (_, n) => member.listen(`web-${n}`, 'tcp://127.0.0.1:0')),
  )
  await member.ready()
}
console.log('serve')
