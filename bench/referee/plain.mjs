// @ts-check
// The cheapest server for small answers: node bench/referee/plain.mjs; says its port on stdout. On the machine that it shares
// with the proxy, `node:http` would take more of the processor than the proxy does. The server reads only requests that the proxy sends.
//
//   GET /n/ID/NUMBER   `ID NUMBER`; the numbers of an ID must rise, so that a request that comes twice is seen
//   GET /report        {"requests":N,"twice":N}
import net from 'node:net'

/** Numbers seen last, by id. @type {Map<string, number>} */
const last = new Map()
let requests = 0
let twice = 0

/** @param {string} path */
function answer(path) {
  const [, page, id = '', number = ''] = path.split('/')
  if (page === 'report') return JSON.stringify({ requests, twice })
  requests++
  if (Number(number) <= (last.get(id) ?? 0)) twice++
  last.set(id, Number(number))
  return `${id} ${number}\n`
}

const server = net.createServer({ noDelay: true }, socket => {
  let text = ''
  socket.on('error', () => {})
  socket.on('data', chunk => {
    text += chunk.toString('latin1')
    let answers = ''
    for (let end = text.indexOf('\r\n\r\n'); end >= 0; end = text.indexOf('\r\n\r\n')) {
      const body = answer(text.slice(4, text.indexOf(' ', 4)))
      answers += `HTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n${body}`
      text = text.slice(end + 4)
    }
    if (answers !== '') socket.write(answers, 'latin1')
  })
})
server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => {
  const address = server.address()
  console.log(typeof address === 'object' && address ? address.port : 0)
})
// The parent has gone.
process.stdin.on('end', () => process.exit()).resume()
