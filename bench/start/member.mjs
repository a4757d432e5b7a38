// @ts-check
// node member.mjs CONTROL ADDRESS: a small server, the next version of the one that serves there; says how long it took from
// join() to ready(), also of processor time, and in all.
import net from 'node:net'
import { join } from 'fd-broker'

const [control = '', address = ''] = process.argv.slice(2)
const began = performance.now()
const used = process.cpuUsage()
const member = await join({ service: 'start', control, upgrade: { probation: 0 } })
const listener = await member.listen('tcp', address)
listener.serve(net.createServer(socket => socket.end()))
await member.ready()
const ready = performance.now()
const { user, system } = process.cpuUsage(used)
const times = { joinToReady: ready - began, cpu: (user + system) / 1000, imported: began, all: ready }
process.stdout.write(`${JSON.stringify(times)}\n`)
await member.retired
