// @ts-check
// node server.mjs, with PORT: a program that knows nothing of fd-broker.
import http from 'node:http'

const server = http.createServer((_request, response) => {
  response.setHeader('x-pid', process.pid)
  response.end('hello\n')
})
server.listen(Number(process.env.PORT), '127.0.0.1')
