// @ts-check
// A server as it stands in the manuals of pm2 and node:cluster: on SIGINT, and when the primary process disconnects it, the server
// stops listening, says `Connection: close` in each further answer, and ends when its connections have ended.
import cluster from 'node:cluster'
import http from 'node:http'
import { OPTIONS, pages } from './pages.mjs'

const answer = pages(String(process.pid))
let ends = false
const server = http.createServer(OPTIONS, (request, response) => {
  if (ends) response.setHeader('connection', 'close')
  answer(request, response)
})
server.listen({ port: Number(process.env.PORT), host: '127.0.0.1', backlog: 4096 }, () =>
  process.send?.('ready'),
)

function end() {
  if (ends) return
  ends = true
  server.close(() => process.exit())
  server.closeIdleConnections()
}
process.on('SIGINT', end)
cluster.worker?.on('disconnect', end)
