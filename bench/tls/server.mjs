// @ts-check
// The server of `npm run bench -- tls`. Moves its connections within this process, so that both kinds run on the same compiled code.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { AttachedServer } from '../../build/modules/member/listeners/attached-server.js'

const BODY = Buffer.alloc(8 * 2 ** 20, 'x')

function certificate() {
  const folder = mkdtempSync(join(tmpdir(), 'fd-broker-tls-'))
  const [cert, key] = [join(folder, 'cert'), join(folder, 'key')]
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-noenc', '-subj', '/CN=localhost']
  execFileSync('openssl', ['req', '-x509', ...kind, '-keyout', key, '-out', cert], { stdio: 'ignore' })
  const made = { cert: readFileSync(cert), key: readFileSync(key) }
  rmSync(folder, { recursive: true })
  return made
}

const server = createServer({ ...certificate(), keepAliveTimeout: 120_000 }, (incoming, response) => {
  incoming.resume().on('end', () => response.end(incoming.url === '/large' ? BODY : 'ok'))
})
const [moving] = new AttachedServer(server, { tls: { move: 'on' } }).moving

/** Resolves with the number of connections, when all of them have moved. */
async function moveAll() {
  if (moving === undefined) throw new Error('TLS connections do not move on this Node')
  for (;;) {
    let count = 0
    for (let each = moving.departures('idle'), next = each.next(); !next.done; next = each.next()) {
      if (next.value === null) continue
      moving.arrive(next.value, 'returned')
      count++
    }
    if (count === moving.movable) return count
    await new Promise(resolve => setTimeout(resolve, 100))
  }
}

server.listen(0, '127.0.0.1', () => process.send?.(/** @type {any} */ (server.address()).port))
process.on('message', async what => {
  const { user, system } = process.cpuUsage()
  process.send?.(what === 'move' ? await moveAll() : user + system)
})
process.on('disconnect', () => process.exit())
