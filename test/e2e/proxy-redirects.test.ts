import { createServer, type OutgoingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ask } from '../processes/client.js'
import { Edge } from '../processes/edge.js'
import { releases } from '../processes/release.js'
import { freePort } from '../processes/scene.js'

const REDIRECT = {
  host: '*',
  listener: 'plain',
  respond: { status: 308, headers: { Location: 'https://$host$request_uri' } },
}

/** A server that answers with the headers that it was sent, and `headers`. */
async function mirror(headers: OutgoingHttpHeaders = {}): Promise<string> {
  const server = createServer((request, response) =>
    response.writeHead(200, headers).end(JSON.stringify(request.headers)),
  )
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    server.closeAllConnections()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** A proxy with a second listener, `plain`. */
async function start(routes: readonly object[], version = undefined as Parameters<typeof Edge.start>[1]) {
  const port = await freePort()
  const edge = await Edge.prepare({ upstreams: { app: { servers: [await mirror()] } }, routes })
  const listeners = edge.config.listeners as object[]
  edge.write({ listeners: [...listeners, { name: 'plain', address: `tcp://127.0.0.1:${port}` }] })
  await edge.next(version)
  return { edge, plain: `http://127.0.0.1:${port}` }
}

describe('a route of one listener', () => {
  it('redirects all its requests to https, with host, path and query; other listeners serve', async () => {
    const { edge, plain } = await start([{ host: 'app.test', path: '/a', upstream: 'app' }, REDIRECT])
    const headers = { host: 'app.test:8080' }
    const answer = await ask(`${plain}/a/b?c=d%20e&f=$host`, { headers }).answer
    expect([answer.status, answer.headers.location]).toEqual([308, 'https://app.test/a/b?c=d%20e&f=$host'])
    expect((await ask(`${edge.url}/a`, { headers }).answer).status).toBe(200)
    expect((await ask(`${edge.url}/b`, { headers }).answer).status).toBe(404)
  })

  it('may be one of several: the longest path of the listener wins', async () => {
    const acme = { ...REDIRECT, path: '/.well-known/acme-challenge', respond: { body: 'token' } }
    const { plain } = await start([REDIRECT, acme])
    expect(await ask(`${plain}/.well-known/acme-challenge/x`).answer).toMatchObject({ body: 'token' })
    expect((await ask(`${plain}/.well-known/other`).answer).status).toBe(308)
  })

  it.runIf(NIGHTLY)(
    'comes, goes and stands in lists at run time; an unknown listener is refused',
    async () => {
      const { edge, plain } = await start([{ host: '*', upstream: 'app' }])
      const one = ['--host', '*', '--listener', 'plain']
      expect(await edge.routes('add', ...one, '--upstream', 'app')).toMatchObject({ stdout: '1 added\n' })
      expect((await edge.routes('list')).stdout).toMatch(/^plain@\* +\/ +runtime +app/m)
      expect(JSON.parse((await edge.routes('list', '--json')).stdout)).toContainEqual(
        expect.objectContaining({ host: '*', listener: 'plain', origin: 'runtime' }),
      )
      expect(await edge.routes('remove', ...one)).toMatchObject({ stdout: '1 removed\n' })
      expect((await ask(plain).answer).status).toBe(200)
      expect(
        await edge.routes('add', '--host', '*', '--listener', 'pain', '--upstream', 'app'),
      ).toMatchObject({
        code: 1,
        stderr: expect.stringContaining('there is no listener "pain" for requests (did you mean "plain"?)'),
      })
    },
  )

  it.runIf(NIGHTLY).each(releases())(
    'serves again after a way back to $name, which does not know it',
    async old => {
      const routes = [{ host: '*', upstream: 'app' }, REDIRECT]
      const { edge, plain } = await start(routes)
      expect((await ask(plain).answer).status).toBe(308)
      edge.write({ routes: [{ host: '*', upstream: 'app' }] })
      await edge.next(old)
      expect((await ask(plain).answer).status).toBe(200)
      edge.write({ routes })
      await edge.next()
      expect((await ask(plain).answer).status).toBe(308)
      expect((await ask(edge.url).answer).status).toBe(200)
    },
  )
})

describe('a variable in a header', () => {
  it('stands for a fact of the request, to the server and to the client', async () => {
    const { plain } = await start([
      {
        host: '*',
        upstream: 'app',
        request: {
          set: {
            'X-From': '$remote_addr $scheme',
            'X-Price': '5$$',
            'X-Parts': '$segment_1|$segment_2$segment_3',
          },
        },
        response: { set: { 'X-Asked': '$request_method $request_uri' } },
      },
    ])
    for (const [path, parts] of [
      ['/one?x/y', 'one|'],
      ['//two;a/%2b/c', 'two|%2bc'],
    ] as const) {
      const { body, headers } = await ask(`${plain}${path}`).answer
      const sent = { 'x-from': '127.0.0.1 http', 'x-price': '5$', 'x-parts': parts }
      expect(JSON.parse(body)).toMatchObject(sent)
      expect(headers['x-asked']).toBe(`GET ${path}`)
    }
  })
})

describe('Strict-Transport-Security of a route', () => {
  it('replaces that of the server, and is no part of errors of the proxy', async () => {
    const strict = { 'Strict-Transport-Security': 'max-age=31536000' }
    const edge = await Edge.start({
      upstreams: {
        app: { servers: [await mirror({ 'Strict-Transport-Security': 'max-age=0' })] },
        gone: { servers: [`http://127.0.0.1:${await freePort()}`] },
      },
      routes: [
        { host: '*', upstream: 'app', response: { set: strict } },
        { host: '*', path: '/here', respond: { headers: strict } },
        { host: '*', path: '/gone', upstream: 'gone', response: { set: strict } },
      ],
    })
    const sent = async (path: string) => {
      const { status, headers } = await ask(`${edge.url}${path}`).answer
      return [status, headers['strict-transport-security']]
    }
    expect(await sent('/')).toEqual([200, 'max-age=31536000'])
    expect(await sent('/here')).toEqual([200, 'max-age=31536000'])
    expect(await sent('/gone')).toEqual([502, undefined])
  })
})
