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
import { WebSocketServer } from 'ws'
import { movableWebSockets } from './movable-websockets.mjs'

const { values: flags } = parseArgs({
  options: {
    control: { type: 'string', default: process.env.ROOM_CONTROL ?? 'none' },
    listen: { type: 'string', default: process.env.ROOM_LISTEN ?? 'tcp://127.0.0.1:8081' },
  },
})

const member = await join({ service: 'room', control: flags.control === 'none' ? false : flags.control })
const server = http.createServer((_request, response) => response.writeHead(426).end('WebSockets only\n'))
const wss = new WebSocketServer({ noServer: true })

/** This server's data of each client. @type {WeakMap<import('ws').WebSocket, { name: string, messages: number }>} */
const guests = new WeakMap()

const sockets = movableWebSockets(wss, {
  protocol: 'app/room-1',
  save: ws => JSON.stringify(guests.get(ws)),
  take: (ws, state) => welcome(ws, JSON.parse(state)),
})

server.on('upgrade', (request, socket, head) =>
  wss.handleUpgrade(request, socket, head, ws => {
    sockets.know(/** @type {import('node:net').Socket} */ (socket), ws)
    welcome(ws, { name: '', messages: 0 })
  }),
)

const web = await member.listen('web', flags.listen)
web.serve(server, { http: { upgraded: sockets.hooks } })

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
