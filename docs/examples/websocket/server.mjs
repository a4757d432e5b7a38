#!/usr/bin/env node
// A chat room over WebSockets, with the package `ws`. Start it twice: the second process continues the open WebSockets of
// the first, with their data. No client reconnects.
//
//   node docs/examples/websocket/server.mjs --control /run/room/upgrade.sock --listen tcp://127.0.0.1:8081
//
// The first message of a client is its name; the answer to `/who` has the generation, the pid, and the number of messages
// that the client has sent. `--control none` runs the room alone, without upgrades.
import http from 'node:http'
import { parseArgs } from 'node:util'
import { join } from 'fd-broker'
import { moveWebSockets } from 'fd-broker/ws'
import { WebSocketServer } from 'ws'

const { values: flags } = parseArgs({
  options: {
    control: { type: 'string', default: process.env.ROOM_CONTROL ?? 'none' },
    listen: { type: 'string', default: process.env.ROOM_LISTEN ?? 'tcp://127.0.0.1:8081' },
  },
})

const member = await join({ service: 'room', control: flags.control === 'none' ? false : flags.control })
const server = http.createServer((_request, response) => response.writeHead(426).end('WebSockets only\n'))
const wss = new WebSocketServer({ server, perMessageDeflate: true })

/** This server's data of each client. @type {WeakMap<import('ws').WebSocket, { name: string, messages: number }>} */
const guests = new WeakMap()

moveWebSockets(wss, {
  serialize: ws => Buffer.from(JSON.stringify(guests.get(ws))),
  restore: (ws, data) => welcome(ws, JSON.parse(Buffer.from(data).toString())),
})

wss.on('connection', ws => welcome(ws, { name: '', messages: 0 }))

const web = await member.listen('web', flags.listen)
web.serve(server)

for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => member.close({ timeout: 10_000 }))

await member.ready()
console.log(`generation ${member.generation} (pid ${process.pid}) serves ${flags.listen}`)

const why = await member.retired
console.log(`generation ${member.generation} (pid ${process.pid}) is done: ${why}`)

/** @param {import('ws').WebSocket} ws @param {{ name: string, messages: number }} guest */
function welcome(ws, guest) {
  guests.set(ws, guest)
  ws.on('error', () => {})
  ws.on('message', data => {
    const text = String(data)
    guest.messages++
    if (guest.name === '') guest.name = text
    else if (text === '/who')
      ws.send(
        `generation ${member.generation}, pid ${process.pid}, ${guest.name}, ${guest.messages} messages`,
      )
    else for (const each of wss.clients) each.send(`${guest.name}: ${text}`)
  })
}
