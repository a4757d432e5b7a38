// @ts-check
// node load.mjs PORT CONNECTIONS [IDLE]: keep-alive connections, each sending its next request when it has the answer. Tells how
// many answers it has had whenever it is asked. IDLE further connections send one request and then nothing.
import net from 'node:net'

const [port, busy, idle] = process.argv.slice(2).map(Number)
const request =
  'GET /some/path?x=1 HTTP/1.1\r\nHost: example.com\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\nCookie: session=abcdefghijklmnop\r\n\r\n'
let answers = 0
let resting = 0

/** @param {boolean} once @param {() => void} [done] */
function connect(once, done) {
  let left = 0
  const socket = net.connect({ port: port ?? 0, host: '127.0.0.1', noDelay: true }, () =>
    socket.write(request, 'latin1'),
  )
  socket.on('error', error => {
    throw error
  })
  socket.on('data', chunk => {
    if (left === 0) {
      const end = chunk.indexOf('\r\n\r\n') + 4
      left = end + Number(/content-length: (\d+)/i.exec(chunk.toString('latin1', 0, end))?.[1])
    }
    left -= chunk.length
    if (left > 0) return
    answers++
    if (!once) socket.write(request, 'latin1')
    else {
      resting++
      done?.()
    }
  })
}

let opened = 0
function openNext() {
  if (opened++ < (idle ?? 0)) connect(true, openNext)
}

for (let i = 0; i < (busy ?? 0); i++) connect(false)
for (let i = 0; i < 32; i++) openNext()
process.on('message', () => process.send?.({ answers, resting }))
