import { createSocket } from 'node:dgram'
import http from 'node:http'
import net from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join, type Listener } from '../../../src/index.js'
import { untyped } from '../../fixtures/untyped.js'

/** The outward shape of a framework's app. */
function expressLike(): unknown {
  const app = (_request: unknown, response: { end(text: string): void }) => response.end('ok')
  return Object.assign(app, { handle: app, set: () => app, listen: () => {} })
}

const socket = createSocket('udp4')

const APPS: readonly [string, unknown, RegExp][] = [
  ['an Express app', expressLike(), /http\.createServer\(app\)/],
  ['a request handler', () => {}, /http\.createServer\(app\)/],
  ['a Fastify app', { server: http.createServer(), listen: () => {} }, /app\.server\b/],
  ['a Koa app', { callback: () => () => {}, listen: () => {} }, /http\.createServer\(app\.callback\(\)\)/],
  ['a Nest app', { getHttpServer: () => http.createServer(), listen: () => {} }, /app\.getHttpServer\(\)/],
  ['a Hono app', { fetch: async () => {}, request: () => {} }, /createAdaptorServer\(app\)/],
  ['a socket.io server', { httpServer: http.createServer(), emit: () => {} }, /app\.httpServer\b/],
  ['a WebSocketServer', { handleUpgrade: () => {}, clients: new Set() }, /the http\.Server whose upgrades/],
  ['a promise of a server', Promise.resolve(net.createServer()), /await it first/],
  ['a UDP socket', socket, /a listener with udp:\/\//],
  ['nothing', undefined, /undefined is no server: give one of net, http, https, http2 or tls/],
]

async function listening(): Promise<Listener> {
  const member = await join({ service: 'shop', control: false })
  onTestFinished(() => member.close({ timeout: 0 }))
  return await member.listen('web', 'tcp://127.0.0.1:0')
}

describe('serve() takes servers, and says where an app has its own', () => {
  it.each(APPS)('%s', async (_what, app, remedy) => {
    onTestFinished(() => void socket.unref())
    const web = await listening()
    expect(() => web.serve(app as net.Server)).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_NOT_A_SERVER',
        message: expect.stringMatching(remedy),
      }),
    )
    expect(() => web.serve(app as net.Server)).toThrow(/listener "web"/)
    web.serve(http.createServer())
  })

  it('refuses hooks that are misspelt, or no functions, and keeps the server free for a second try', async () => {
    const web = await listening()
    const server = http.createServer()
    const serve = (options: object | null) => () => web.serve(server, options as object)
    const refused = (text: string) =>
      expect.objectContaining({ code: 'ERR_FDB_OPTION', message: expect.stringContaining(text) })
    expect(serve({ http: { serialise: () => undefined } })).toThrow(refused('did you mean "serialize"'))
    expect(serve({ http: { serialize: 1, restore: 2 } })).toThrow(refused('"serialize" is 1'))
    expect(serve({ http: { upgraded: { protocol: 'app/x', serialise: () => undefined } } })).toThrow(
      refused('did you mean "serialize"'),
    )
    expect(serve({ keeper: { announce: () => {}, emptied: async () => {} } })).toThrow(
      refused('cut" is undefined'),
    )
    expect(serve(null)).toThrow(refused('null'))
    expect(() => web.serve(net.createServer(), untyped({ socket: { protocl: 'app/x' } }))).toThrow(
      refused('did you mean "protocol"'),
    )
    web.serve(server)
  })
})
