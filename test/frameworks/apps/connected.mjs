import { createServer } from 'node:http'
import express from 'express'
import { recoverSockets } from 'fd-broker/socket.io'
import { EventChannels } from 'fd-broker/streams'
import { moveWebSockets } from 'fd-broker/ws'
import { Server } from 'socket.io'
import { WebSocketServer } from 'ws'

const app = express()
const server = createServer(app)
const events = new EventChannels()
app.get('/events', (request, response) => events.stream('news', request, response))
app.post('/publish/:number', async (request, response) => {
  await events.publish('news', `event ${request.params.number}`)
  io.emit('tick', Number(request.params.number))
  response.send(`pid ${process.pid}`)
})

const wss = new WebSocketServer({ noServer: true, perMessageDeflate: true })
server.on('upgrade', (request, socket, head) => {
  if (request.url === '/talk') wss.handleUpgrade(request, socket, head, ws => wss.emit('connection', ws))
})
const counts = new WeakMap()
wss.on('connection', ws => talk(ws, 0))
moveWebSockets(wss, {
  serialize: ws => Buffer.from(String(counts.get(ws))),
  restore: (ws, data) => talk(ws, Number(Buffer.from(data))),
})

function talk(ws, count) {
  counts.set(ws, count)
  ws.on('message', text => {
    counts.set(ws, counts.get(ws) + 1)
    ws.send(`${text} ${counts.get(ws)} to pid ${process.pid}`)
  })
}

const io = new Server(server, { pingTimeout: 60_000 })
recoverSockets(io)
io.on('connection', socket => {
  if (!socket.recovered) socket.data = { count: 0 }
  socket.on('count', (text, reply) => reply(`${text} ${++socket.data.count} to pid ${process.pid}`))
})

if (process.env.JOIN_CONTROL === undefined) server.listen(8080)
else {
  const { join } = await import('fd-broker')
  const options = { service: 'connected', control: process.env.JOIN_CONTROL, drain: { timeout: 60_000 } }
  let member
  // Right after a rollback the handoff may not be over yet.
  while (member === undefined)
    member = await join(options).catch(error => {
      if (!error.retryable) throw error
    })
  const web = await member.listen('web', 'tcp://127.0.0.1:8080')
  web.serve(server)
  await member.ready()
  await member.retired
}
