import type { RequestListener } from 'node:http'
import { describe, expect, it } from 'vitest'
import { type Answer, ask } from '../processes/client.js'
import { type Config, Edge, upstream } from '../processes/edge.js'
import { until } from '../processes/until.js'

async function sticking(sticky: object | string = 'edge', rest: Config = {}) {
  const servers = [await upstream('one'), await upstream('two'), await upstream('three')]
  const edge = await Edge.start({
    upstreams: { app: { servers: servers.map(({ url }) => url), sticky } },
    routes: [{ host: '*', upstream: 'app', response: { set: { 'X-Route': 'yes' } } }],
    upgrade: { probation: '0s' },
    ...rest,
  })
  return { edge, servers }
}

const cookieIn = ({ headers }: Answer) => headers['set-cookie']
const serverOf = ({ headers }: Answer) => String(headers['x-upstream'])

function asking(edge: Edge, cookie?: string, path = '/r/1') {
  return ask(`${edge.url}${path}`, { headers: cookie === undefined ? {} : { cookie } }).answer
}

/** A first request: the server's name and the cookie for it. */
async function first(edge: Edge) {
  const answer = await asking(edge)
  const [cookie = ''] = cookieIn(answer)?.[0]?.split(';') ?? []
  return { server: serverOf(answer), cookie: `a=b; ${cookie}`, answer }
}

describe('a client with a cookie of the proxy', () => {
  it('keeps its server, also in the next version, and gets the cookie once', async () => {
    const { edge } = await sticking({ cookie: 'edge', maxAge: '1h', secure: true })
    const [one, two] = [await first(edge), await first(edge)]
    expect(one.server).not.toBe(two.server)
    expect(cookieIn(one.answer)).toEqual([
      expect.stringMatching(/^edge=[0-9a-f]{16}; Path=\/; HttpOnly; Max-Age=3600; Secure$/),
    ])
    const keeps = async () => {
      for (const { server, cookie } of [one, two, one, two, one]) {
        const answer = await asking(edge, cookie)
        expect({ server: serverOf(answer), cookie: cookieIn(answer) }).toEqual({ server, cookie: undefined })
      }
    }
    await keeps()
    await edge.next()
    await keeps()
    // Clients without a cookie still take all servers in turn.
    const servers = [await first(edge), await first(edge), await first(edge)].map(({ server }) => server)
    expect(servers.toSorted()).toEqual(['one', 'three', 'two'])
    const unknown = await asking(edge, 'edge=0123456789abcdef')
    expect(cookieIn(unknown)?.[0]).toMatch(/^edge=/)
  })

  it('gets another server and its cookie if its own one is drained or dies, and stays with that', async () => {
    const { edge, servers } = await sticking()
    const names = ['one', 'two', 'three']
    const own = await first(edge)
    const { url } = servers[names.indexOf(own.server)]!
    const change = (what: string) =>
      edge.sandbox.run('servers', what, '--control', edge.sandbox.control, 'app', url)
    await change('drain')
    const other = await asking(edge, own.cookie)
    expect(serverOf(other)).not.toBe(own.server)
    const [cookie = ''] = cookieIn(other)?.[0]?.split(';') ?? []
    expect(cookie).toMatch(/^edge=/)
    await change('undrain')
    expect(serverOf(await asking(edge, cookie))).toBe(serverOf(other))
    expect(serverOf(await asking(edge, own.cookie))).toBe(own.server)
    servers[names.indexOf(own.server)]!.close()
    for (let n = 0; n < 5; n++) {
      const answer = await asking(edge, own.cookie)
      expect(answer.status).toBe(200)
      expect(serverOf(answer)).not.toBe(own.server)
      expect(cookieIn(answer)?.[0]).toMatch(/^edge=/)
    }
  })

  it('comes to a canary as often as its weight says, and stays there or away, whatever the weight becomes', async () => {
    const [stable, canary] = [await upstream('stable'), await upstream('canary')]
    const servers = [
      { address: stable.url, weight: 3 },
      { address: canary.url, weight: 1 },
    ]
    const edge = await Edge.start({
      upstreams: { app: { servers, sticky: 'edge' } },
      routes: [{ host: '*', upstream: 'app' }],
      upgrade: { probation: '0s' },
    })
    const canariesIn = async (clients: number) => {
      const all: Awaited<ReturnType<typeof first>>[] = []
      while (all.length < clients) all.push(await first(edge))
      return { all, canaries: all.filter(({ server }) => server === 'canary').length }
    }
    const { all, canaries } = await canariesIn(20)
    expect(canaries).toBe(5)
    const keeps = async () => {
      for (const { server, cookie } of all) {
        const answer = await asking(edge, cookie)
        expect([serverOf(answer), cookieIn(answer)]).toEqual([server, undefined])
      }
    }
    await keeps()
    await edge.sandbox.run('servers', 'weight', '--control', edge.sandbox.control, 'app', canary.url, '9')
    await keeps()
    await edge.next()
    await keeps()
    expect((await canariesIn(20)).canaries).toBe(15)
  })

  it('gets the cookie or not as it should if its connection moves with the request under way', async () => {
    const { edge, servers } = await sticking()
    const { cookie, server } = await first(edge)
    const old = await edge.pid
    let release = () => {}
    const moved = new Promise<void>(resolve => {
      release = resolve
    })
    for (const { server } of servers) {
      const [answer] = server.listeners('request') as RequestListener[]
      server.removeAllListeners('request').on('request', async (request, response) => {
        await moved
        answer!(request, response)
      })
    }
    const [without, withCookie] = [asking(edge, undefined, '/slow'), asking(edge, cookie, '/slow')]
    await until('both wait', async () => (await edge.status()).listeners[0]?.kinds?.waiting === 2)
    const pid = await edge.next()
    expect(pid).not.toBe(old)
    await until('both have moved', async () => (await edge.status()).moves?.arrived === 2, 60_000)
    release()
    const [one, two] = [await without, await withCookie]
    expect([one, two].map(({ headers }) => headers['x-pid'])).toEqual([String(pid), String(pid)])
    expect(cookieIn(one)?.[0]).toMatch(/^edge=/)
    expect(cookieIn(two)).toBeUndefined()
    expect(serverOf(two)).toBe(server)
  })
})
