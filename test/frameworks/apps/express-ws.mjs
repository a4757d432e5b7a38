import express from 'express'
import expressWs from 'express-ws'
import { moveWebSockets } from 'fd-broker/ws'

const { app, getWss } = expressWs(express())
const visits = new WeakMap()
app.get('/', (_request, response) => response.send(`pid ${process.pid}`))
app.ws('/talk/:room', (ws, request) => talk(ws, { room: request.params.room, count: 0 }))
moveWebSockets(getWss(), {
  serialize: ws => Buffer.from(JSON.stringify(visits.get(ws))),
  restore: (ws, data) => talk(ws, JSON.parse(Buffer.from(data).toString())),
})
app.listen(8080)

function talk(ws, visit) {
  visits.set(ws, visit)
  ws.on('message', text => ws.send(`${text} ${++visit.count} in ${visit.room} to pid ${process.pid}`))
}
