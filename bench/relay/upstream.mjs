// @ts-check
// A server that costs next to nothing: the same small answer to every chunk.
import net from 'node:net'

const body = 'x'.repeat(120)
const answer = `HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: ${body.length}\r\nDate: Thu, 20 Nov 2025 09:00:00 GMT\r\n\r\n${body}`
const server = net.createServer({ noDelay: true }, socket => {
  socket.on('error', () => {})
  socket.on('data', () => socket.write(answer, 'latin1'))
})
server.listen(0, '127.0.0.1', () => process.send?.(server.address()))
