import { createServer } from 'node:http'

const dashboards = new Set()
let orders = 0

const server = createServer((request, response) => {
  if (request.url === '/events') {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
    response.write('retry: 50\n\n')
    dashboards.add(response)
    response.on('close', () => dashboards.delete(response))
    return
  }
  if (request.url === '/') response.end(`pid ${process.pid}\n`)
  else response.setHeader('content-type', 'text/html').end('<script>new EventSource("/events")</script>\n')
})
server.listen(8080)

setInterval(() => {
  orders++
  for (const dashboard of dashboards) dashboard.write(`data: {"pid":${process.pid},"orders":${orders}}\n\n`)
}, 50)
