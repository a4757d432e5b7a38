// node member.mjs CONTROL ADDRESS: a server of an installed package; started again it is the upgrade. Says its pid when it serves.
import http from 'node:http'
import { join } from 'fd-broker'

const [control = '', address = ''] = process.argv.slice(2)
const member = await join({ service: 'shop', control, upgrade: { probation: 500 } })
const web = await member.listen('web', address)
web.serve(http.createServer((_request, response) => response.end(String(process.pid))))
process.once('SIGTERM', () => member.close())
await member.ready()
console.log(JSON.stringify({ pid: process.pid, generation: member.generation, address: web.address.url }))
await member.retired
