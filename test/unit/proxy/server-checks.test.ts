import { createServer, type RequestListener } from 'node:http'
import { type AddressInfo, createServer as createTcpServer, type Server } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type CheckedServer, ServerChecks } from '../../../src/proxy/server-checks/server-checks.js'
import type { Destination } from '../../../src/relay/index.js'
import { until } from '../../processes/until.js'

const DEFAULTS: CheckedServer['config'] = {
  http: '/health',
  status: null,
  host: null,
  port: null,
  interval: 10,
  timeout: 20_000,
  rise: 1,
  fall: 1,
}

async function listening(server: Server): Promise<Destination> {
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    if ('closeAllConnections' in server) (server as ReturnType<typeof createServer>).closeAllConnections()
  })
  const { port } = server.address() as AddressInfo
  const authority = `127.0.0.1:${port}`
  return { key: `http://${authority}`, address: { kind: 'tcp', host: '127.0.0.1', port }, authority }
}

const answering = (answer: RequestListener) => listening(createServer(answer))

const server = (destination: Destination, changes: Partial<CheckedServer['config']> = {}): CheckedServer => ({
  upstream: 'app',
  config: { ...DEFAULTS, ...changes },
  destination,
})

function checking(...servers: CheckedServer[]) {
  const results: [key: string, why: string | null][] = []
  const checks = new ServerChecks(({ destination }, why) => results.push([destination.key, why]))
  onTestFinished(() => checks.stop())
  checks.configure(servers)
  return { checks, results }
}

describe('checks of servers', () => {
  it('run from the start on, again and again, with the Host of the server or another', async () => {
    const hosts: (string | undefined)[] = []
    const well = await answering(({ headers, url }, response) => {
      hosts.push(`${headers.host}${url}`)
      response.end()
    })
    const { checks, results } = checking(server(well), server(well, { host: 'app.test' }))
    expect(results).toEqual([])
    checks.start()
    await until('both are checked three times', () => results.length >= 6)
    expect(new Set(results)).toEqual(new Set(results.map(() => [well.key, null])))
    expect(new Set(hosts)).toEqual(new Set([`${well.authority}/health`, 'app.test/health']))
  })

  it('ask another port, and a server that listens there alone passes', async () => {
    const gone = createTcpServer()
    const refusing = await listening(gone)
    await new Promise(resolve => gone.close(resolve))
    const hosts: (string | undefined)[] = []
    const { address } = await answering(({ headers }, response) => {
      hosts.push(headers.host)
      response.end()
    })
    const { port } = address as { port: number }
    const { checks, results } = checking(server(refusing, { port }), server(refusing, { port, http: null }))
    checks.start()
    await until('both are checked', () => results.length >= 4 && hosts.length > 0)
    expect(new Set(results.map(([, why]) => why))).toEqual(new Set([null]))
    expect(hosts[0]).toBe(refusing.authority)
  })

  it('fail with another status, without an answer in time and without a connection', async () => {
    const sick = await answering((_, response) => response.writeHead(500).end('no database\n'))
    const hung = await answering(() => {})
    const gone = createTcpServer()
    const refusing = await listening(gone)
    await new Promise(resolve => gone.close(resolve))
    const { checks, results } = checking(
      server(sick),
      server(hung, { timeout: 20 }),
      server(refusing, { http: null }),
    )
    checks.start()
    await until('each has a result', () => new Set(results.map(([key]) => key)).size === 3)
    const why = Object.fromEntries(results)
    expect(why[sick.key]).toBe(`GET /health of ${sick.authority}: 500 Internal Server Error (no database)`)
    expect(why[hung.key]).toBe(`GET /health of ${hung.authority}: no answer within 20 ms`)
    expect(why[refusing.key]).toMatch(/^connect to 127\.0\.0\.1:\d+: connect ECONNREFUSED/)
  })

  it('pass with the status that is expected, or with a connection', async () => {
    const silent = await listening(createTcpServer(socket => socket.on('error', () => {})))
    const odd = await answering((_, response) => response.writeHead(418).end())
    const { checks, results } = checking(server(odd, { status: 418 }), server(silent, { http: null }))
    checks.start()
    await until('both have a result', () => new Set(results.map(([key]) => key)).size === 2)
    expect(results.every(([, why]) => why === null)).toBe(true)
  })

  it('end without a result at the stop, and start again with the next start', async () => {
    let asked = 0
    let closed = 0
    const hung = await answering(({ socket }) => {
      asked++
      socket.once('close', () => closed++)
    })
    const { checks, results } = checking(server(hung))
    checks.start()
    await until('the server is asked', () => asked === 1)
    checks.stop()
    await until('the connection is closed', () => closed === 1)
    checks.start()
    await until('the server is asked again', () => asked === 2)
    expect(results).toEqual([])
  })

  it('go on for servers that stay, and end for others', async () => {
    const [one, two] = [await answering(() => {}), await answering((_, response) => response.end())]
    const { checks, results } = checking(server(one, { timeout: 200 }))
    checks.start()
    checks.configure([server(two), server(one, { timeout: 200 })])
    await until('both have results', () => new Set(results.map(([key]) => key)).size === 2)
    checks.configure([server(one, { timeout: 200 })])
    const before = results.filter(([key]) => key === two.key).length
    const others = results.length - before
    await until('one has three more', () => results.filter(([key]) => key === one.key).length >= others + 3)
    expect(results.filter(([key]) => key === two.key).length).toBe(before)
  })

  it('count neither way if the process has no descriptor', async () => {
    let asked = 0
    const short: Destination = {
      key: 'http://app.test:1',
      address: { kind: 'tcp', host: 'app.test', port: 1 },
      authority: 'app.test:1',
      named: {
        lookup: (_name, _options, done) => {
          const code = ++asked < 3 ? 'EMFILE' : 'ENOTFOUND'
          setImmediate(() => done(Object.assign(new Error(code), { code }), ''))
        },
        current: () => false,
        turn: () => null,
        tried: () => {},
      },
    }
    const { checks, results } = checking(server(short))
    checks.start()
    await until('one has a result', () => results.length > 0)
    expect(results[0]![1]).toBe('GET /health of app.test:1: ENOTFOUND')
  })
})
