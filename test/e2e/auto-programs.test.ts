import { readFileSync, realpathSync, symlinkSync } from 'node:fs'
import { connect as http2Connect } from 'node:http2'
import { get as httpsGet } from 'node:https'
import { connect } from 'node:net'
import { pathToFileURL } from 'node:url'
import { describe, expect, it } from 'vitest'
import { WebSocket } from 'ws'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { makeCertificate } from '../processes/certificate.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'
import { processesLeft, upgradedAndAlike } from './auto-record.js'

const UPGRADES = perLane(1, 5)
/** A version that was replaced stands by so long. */
const SOON = { env: { FD_BROKER_PROBATION: '200ms' } }

const HTTP = `import http from 'node:http'
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
`
const COMMONJS = `const http = require('node:http')
const server = http.createServer((request, response) => {
  if (request.url === '/' && request.method === 'GET') return response.end('pid ' + process.pid)
  response.writeHead(request.url === '/' ? 405 : 200, 'So be it', { 'x-server': 'shop' })
  response.end(request.method + ' ' + request.url)
})
server.listen({ port: 8080, host: 'localhost' })
process.on('SIGTERM', () => server.close(() => process.exit(0)))
`
const TCP = `import net from 'node:net'
net.createServer(socket => socket.end('pid ' + process.pid)).listen(8080, '127.0.0.1')
`
const HTTP2 = `import http2 from 'node:http2'
http2.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
`
const UNIX = `import net from 'node:net'
net.createServer(socket => socket.end('pid ' + process.pid)).listen('./shop.sock')
`

/** All that the peer writes until it ends. */
function whole(socket: NodeJS.ReadableStream): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = ''
    socket.on('data', chunk => (text += chunk))
    socket.once('end', () => resolve(text))
    socket.once('error', reject)
  })
}

describe('a program under fd-broker/auto is upgraded without a lost request:', () => {
  it.each(perLane(['import'] as const, ['import', 'options'] as const))('an HTTP server, by %s', async by => {
    const program = await AutoProgram.of(HTTP)
    await program.serve(by)
    await program.upgradedUnderLoad(by, { upgrades: perLane(1, 3) })
  })

  it('CommonJS, by --require, which answers as without it', async () => {
    const program = await AutoProgram.of(COMMONJS, 'server.cjs', SOON)
    const questions = [
      { path: '/chair' },
      { path: '/chair', method: 'HEAD' },
      { path: '/', method: 'DELETE' },
    ]
    await upgradedAndAlike(program, { by: 'require', questions, upgrades: UPGRADES })
    expect(program.output).toBe('')
  })

  it.runIf(NIGHTLY)('a TCP server', async () => {
    const program = await AutoProgram.of(TCP, 'server.mjs', SOON)
    await program.serve()
    const ask = () => whole(connect(program.port, '127.0.0.1'))
    await program.upgradedWhileAsked(ask, 'import', { upgrades: UPGRADES })
    await processesLeft(program, 1)
  })

  it('a server on a Unix socket', async () => {
    const program = await AutoProgram.of(UNIX)
    await program.serve()
    const ask = () => whole(connect(program.path('shop.sock')))
    await program.upgradedWhileAsked(ask, 'import', { upgrades: perLane(1, 3) })
  })

  it.runIf(NIGHTLY)('an HTTPS server', async () => {
    const program = await AutoProgram.of('', 'server.mjs', SOON)
    const { cert, key } = makeCertificate(program.sandbox)
    program.write(
      'server.mjs',
      `import { readFileSync, realpathSync, symlinkSync } from 'node:fs'
import https from 'node:https'
const options = { cert: readFileSync('${cert}'), key: readFileSync('${key}') }
https.createServer(options, (request, response) => response.end('pid ' + process.pid)).listen(8080)
`,
    )
    await program.serve()
    const ca = readFileSync(cert)
    const ask = () =>
      new Promise<string>((resolve, reject) => {
        const options = { port: program.port, host: '127.0.0.1', servername: 'localhost', ca, agent: false }
        httpsGet(options, response => whole(response).then(resolve, reject)).once('error', reject)
      })
    await program.upgradedWhileAsked(ask, 'import', { upgrades: UPGRADES })
    await processesLeft(program, 1)
  })

  it.runIf(NIGHTLY)('an HTTP/2 server', async () => {
    const program = await AutoProgram.of(HTTP2)
    await program.serve()
    const ask = () =>
      new Promise<string>((resolve, reject) => {
        const session = http2Connect(program.url).once('error', reject)
        const request = session.request().once('error', reject)
        whole(request)
          .then(resolve, reject)
          .finally(() => session.close())
      })
    await program.upgradedWhileAsked(ask)
  })

  it.runIf(NIGHTLY)(
    'an HTTP server that takes long to end when it is replaced, and gets no new client meanwhile',
    async () => {
      const program = await AutoProgram.of(
        `import { existsSync } from 'node:fs'
${HTTP}process.on('SIGTERM', () => {
  console.log('told to end')
  setInterval(() => existsSync('done') && process.exit(), 20)
})
`,
        'server.mjs',
        { env: { FD_BROKER_PROBATION: '0' } },
      )
      const first = await program.serve()
      const second = await program.serve('import', 2)
      await program.says('told to end')
      const answered = new Set<string>()
      for (let asked = 0; asked < 100; asked++) {
        const answer = await fetch(program.url, { headers: { connection: 'close' } })
        answered.add(await answer.text())
      }
      expect(answered).toEqual(new Set([`pid ${second}`]))
      expect(hasEnded(first)).toBe(false)
      program.write('done', '')
      await program.ends(first)
    },
  )

  it.runIf(NIGHTLY)('a server of WebSockets, whose sockets stay with the version that has them', async () => {
    const program = await AutoProgram.of(
      `import http from 'node:http'
import { WebSocketServer } from '${import.meta.resolve('ws')}'
const server = http.createServer((request, response) => response.end('pid ' + process.pid))
new WebSocketServer({ server }).on('connection', socket => socket.on('message', () => socket.send('pid ' + process.pid)))
server.listen(8080)
`,
    )
    const first = await program.serve()
    const said: string[] = []
    const socket = new WebSocket(program.url.replace('http', 'ws')).on('message', data =>
      said.push(String(data)),
    )
    await until('it is open', () => socket.readyState === WebSocket.OPEN || null)
    await program.upgradedUnderLoad('import', { upgrades: perLane(1, 3) })
    socket.send('who?')
    await until('the first version answers', () => said.at(-1) === `pid ${first}` || null)
    socket.close()
    await program.ends(first)
  })
})

/** As npm and pnpm install packages from folders: each is a link. */
it.each(['import', 'require'] as const)(
  'finds packages behind links beside a socket of a killed version, by --%s',
  async by => {
    const program = await AutoProgram.of(`import http from 'node:http'
import { url } from 'linked'
http.createServer((request, response) => response.end(url)).listen(8080)
`)
    const file = 'real/index.js'
    program.write('real/package.json', '{"name":"linked","type":"module","exports":"./index.js"}')
    program.write(file, 'export const { url } = import.meta')
    symlinkSync('../real', program.path('node_modules/linked'))
    const answer = async () => await (await fetch(program.url)).text()
    const real = `${pathToFileURL(realpathSync(program.path(file)))}`
    const pid = await program.serve(by)
    expect(await answer()).toBe(real)
    signalPid(pid, 'SIGKILL')
    await until('it has ended', () => hasEnded(pid))
    await program.serve(by)
    expect(await answer()).toBe(real)
    await program.command('stop')
  },
)
