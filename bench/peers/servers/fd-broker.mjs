// @ts-check
// The server as a member of fd-broker: node fd-broker.mjs CONTROL PORT.
import http from 'node:http'
import { join } from 'fd-broker'
import { moveStreams } from 'fd-broker/streams'
import { OPTIONS, pages, stream, streams } from './pages.mjs'

const [control = '', port] = process.argv.slice(2)
const member = await join({ service: 'peer', control, drain: { timeout: 10_000 }, upgrade: { probation: 0 } })
const listener = await member.listen('web', `tcp://127.0.0.1:${port}`)
const server = http.createServer(OPTIONS, pages(String(process.pid)))
moveStreams(server, {
  serialize: (_, response) =>
    streams.has(response) ? Buffer.from(JSON.stringify(streams.get(response))) : undefined,
  restore: (_, response, data) => stream(response, JSON.parse(Buffer.from(data).toString())),
})
listener.serve(server)
await member.ready()
await member.retired
process.exit()
