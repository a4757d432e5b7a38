// @ts-check
import net from 'node:net'

const END = 'hello\n'

/**
 * Asks so many times over so many connections, each of which has one request under way; resolves when all are answered. `fresh`: every
 * request has a connection of its own.
 * @param {number} port
 * @param {{ requests: number, connections: number, fresh: boolean }} load
 * @returns {Promise<void>}
 */
export function closedLoad(port, { requests, connections, fresh }) {
  const question = `GET / HTTP/1.1\r\nHost: x\r\n${fresh ? 'Connection: close\r\n' : ''}\r\n`
  let left = requests
  let open = 0
  return new Promise((resolve, reject) => {
    const connect = () => {
      open++
      let tail = ''
      let owed = false
      const socket = net.connect(port, '127.0.0.1')
      const next = () => {
        if (left === 0) return void socket.end()
        left--
        owed = true
        socket.write(question)
      }
      socket.on('connect', next)
      socket.on('data', bytes => {
        tail = (tail + bytes.toString('latin1')).slice(-END.length)
        if (tail !== END) return
        tail = ''
        owed = false
        if (!fresh) next()
      })
      socket.on('error', reject)
      socket.on('close', () => {
        open--
        if (owed) reject(new Error('a connection ended without an answer'))
        else if (left > 0) connect()
        else if (open === 0) resolve()
      })
    }
    for (let n = 0; n < connections; n++) connect()
  })
}
