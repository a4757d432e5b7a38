import { createServer } from 'node:http'
import { Server } from 'socket.io'

const server = createServer((request, response) => {
  if (request.url === '/') response.end(`pid ${process.pid}\n`)
  else response.writeHead(404).end('not found\n')
})
const io = new Server(server)
io.on('connection', socket => {
  socket.on('echo', (text, reply) => reply(`${text} to pid ${process.pid}`))
})
server.listen(8080)
