// A server that is replaced by the next process of this program: answers with its pid, says where it listens, and ends as replaced.
import { createServer } from 'node:http'
import { join } from 'fd-broker'

const member = await join({ service: 'target', control: process.argv[2] })
const web = await member.listen('web', 'tcp://127.0.0.1:0')
web.serve(createServer((_, response) => response.end(String(process.pid))))
await member.ready()
process.stdout.write(`${JSON.stringify({ port: web.address.port, platform: process.arch })}\n`)
process.stdout.write(`${await member.retired}\n`)
