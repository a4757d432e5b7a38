import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type AddressInfo, connect as connectTcp, createServer, type Socket } from 'node:net'
import { type ConnectionOptions, connect, createServer as createTlsServer } from 'node:tls'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { Certificate } from '../processes/certificate.js'
import { Edge } from '../processes/edge.js'
import { freePort } from '../processes/scene.js'
import { askTls, TlsClient } from '../processes/tls-client.js'
import { until } from '../processes/until.js'

const CHALLENGE = 'acme-tls/1'

/** A client of ACME that answers an authority at this port. */
async function acmeClient(port: number, { cert, key }: Certificate) {
  const server = createTlsServer({
    cert: readFileSync(cert),
    key: readFileSync(key),
    ALPNProtocols: [CHALLENGE],
  })
  server.on('tlsClientError', () => {}).on('secureConnection', socket => socket.on('error', () => {}))
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close())
  return server
}

async function scene(listener: object = {}, config: object = {}) {
  const edge = await Edge.prepare({
    upgrade: { probation: '0s' },
    routes: [{ host: '*', respond: { body: 'ok' } }],
  })
  const port = await freePort()
  const certificates = [edge.issue('own', ['app.test'])]
  const secured = edge.secured(certificates)
  const change = (more: object = {}, own: readonly Certificate[] = certificates) => {
    const [first] = secured.listeners as object[]
    return {
      upstreams: { acme: { servers: [`tcp://127.0.0.1:${port}`] } },
      accessLog: true,
      listeners: [{ ...first, acme: 'acme', ...listener, ...more }],
      tls: { certificates: own },
      ...config,
    }
  }
  edge.write(change())
  await edge.next()
  const proof = edge.issue('proof', ['app.test'])
  return { edge, port, proof, change, certificates }
}

/** Asks as an authority does. Returns the certificate and the protocol, or the error of the handshake. */
async function validate(port: number, over: ConnectionOptions = {}): Promise<string> {
  const socket = connect({
    port,
    host: '127.0.0.1',
    servername: 'app.test',
    ALPNProtocols: [CHALLENGE],
    rejectUnauthorized: false,
    ...over,
  })
  onTestFinished(() => void socket.destroy())
  return new Promise(resolve => {
    socket.on('error', error => resolve((error as NodeJS.ErrnoException).code ?? error.message))
    socket.on('secureConnect', () => {
      resolve(`${socket.getPeerCertificate().subject.CN} ${socket.alpnProtocol}`)
      socket.end()
    })
  })
}

describe('the proof of a name by TLS-ALPN-01', () => {
  it('comes from the client of ACME, while other clients get the certificate of the proxy', async () => {
    const { edge, port, proof, change, certificates } = await scene()
    expect(await validate(edge.port)).toBe('ECONNRESET')
    const server = await acmeClient(port, proof)
    expect(await validate(edge.port)).toBe(`proof ${CHALLENGE}`)
    expect(await validate(edge.port, { maxVersion: 'TLSv1.2' })).toBe(`proof ${CHALLENGE}`)
    const two = await askTls(edge.port, { ALPNProtocols: [CHALLENGE, 'http/1.1'] })
    expect([two.certificate, two.socket.alpnProtocol]).toEqual(['own', 'http/1.1'])
    expect((await askTls(edge.port)).certificate).toBe('own')
    const passed = () => edge.lines.find(({ msg, reason }) => msg === 'connection' && reason === undefined)
    expect(await until('it is logged', passed)).toMatchObject({ upstream: `tcp://127.0.0.1:${port}` })

    await edge.reload(change({}, [...certificates, edge.issue('other', ['other.test'], 'ed25519')]))
    expect(await validate(edge.port)).toBe(`proof ${CHALLENGE}`)
    expect((await askTls(edge.port, { servername: 'other.test' })).certificate).toBe('other')

    await edge.reload(change({ acme: undefined }))
    expect(await validate(edge.port)).toMatch(/NO_APPLICATION_PROTOCOL/)
    await edge.reload(change())
    expect(await validate(edge.port)).toBe(`proof ${CHALLENGE}`)
    server.close()
  })

  it('goes on in the midst of an upgrade, and at a listener that verifies its clients or forwards connections', async () => {
    const { edge, port, proof, change } = await scene({}, { drain: { timeout: '20s' } })
    await acmeClient(port, proof)
    // The first half of a ClientHello comes before the upgrade, the second after it.
    const { half, rest, socket } = await halfHello(edge.port)
    half()
    const other = new TlsClient(edge.port)
    await other.ask('/')
    const upgraded = edge.next()
    const seen = new Set<string>()
    let isOver = false
    void upgraded.then(() => (isOver = true))
    while (!isOver) seen.add(await validate(edge.port))
    expect(seen).toEqual(new Set([`proof ${CHALLENGE}`]))
    rest()
    await until('the authority has its answer', () => socket.bytesRead > 500)

    const ca = edge.issue('ca')
    await edge.reload(change({ clientCa: ca.cert }))
    expect(await validate(edge.port)).toBe(`proof ${CHALLENGE}`)
    const echo = createServer(client => client.pipe(client)).listen(0, '127.0.0.1')
    await once(echo, 'listening')
    onTestFinished(() => void echo.close())
    const servers = [`tcp://127.0.0.1:${(echo.address() as AddressInfo).port}`]
    const { upstreams, ...config } = change({ forward: 'echo' })
    await edge.reload({ ...config, routes: [], upstreams: { ...upstreams, echo: { servers } } })
    expect(await validate(edge.port)).toBe(`proof ${CHALLENGE}`)
    expect((await askTls(edge.port, { path: '/echoed\r\n\r\n' })).text).toContain('GET /echoed')
  })
})

/** A connection of an authority to this port, whose first bytes go in two parts. */
async function halfHello(port: number): Promise<{ half(): void; rest(): void; socket: Socket }> {
  const relay = createServer().listen(0, '127.0.0.1')
  await once(relay, 'listening')
  onTestFinished(() => void relay.close())
  const client = connect({
    port: (relay.address() as AddressInfo).port,
    host: '127.0.0.1',
    servername: 'app.test',
    ALPNProtocols: [CHALLENGE],
    rejectUnauthorized: false,
  })
  client.on('error', () => {})
  const [accepted] = (await once(relay, 'connection')) as [Socket]
  const [hello] = (await once(accepted, 'data')) as [Buffer]
  client.destroy()
  accepted.destroy()
  const socket = connectTcp(port, '127.0.0.1')
  socket.on('error', () => {}).resume()
  onTestFinished(() => void socket.destroy())
  await once(socket, 'connect')
  const middle = hello.length >> 1
  return {
    socket,
    half: () => void socket.write(hello.subarray(0, middle)),
    rest: () => void socket.write(hello.subarray(middle)),
  }
}
