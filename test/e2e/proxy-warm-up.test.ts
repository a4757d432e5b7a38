import { describe, expect, it } from 'vitest'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'

const SAID = 'relayed requests to itself, so that its code is compiled'

/** Its only server notes what it is asked. */
async function edgeWith(upgrade: object) {
  const app = await upstream()
  const asked: string[] = []
  app.server.prependListener('request', ({ url }) => asked.push(String(url)))
  const edge = await Edge.start({
    upstreams: { app: { servers: [app.url] } },
    routes: [{ host: '*', upstream: 'app' }],
    accessLog: true,
    upgrade: { probation: '0s', ...upgrade },
  })
  const warmed = () => edge.lines.filter(({ msg }) => msg === SAID)
  return { edge, asked, warmed }
}

describe('the next version of a proxy', () => {
  it('relays requests to itself before it serves, which nobody else sees', async () => {
    const { edge, asked, warmed } = await edgeWith({ warmUp: '10s' })
    const first = await edge.pid
    expect((await ask(`${edge.url}/first`).answer).headers['x-upstream']).toBe('app')
    expect(warmed()).toEqual([])
    const second = await edge.next()
    expect((await ask(`${edge.url}/second`).answer).headers['x-pid']).toBe(String(second))
    const [line, ...more] = warmed()
    expect([line?.pid, line?.requests, more]).toEqual([second, 1_000, []])
    const serves = edge.lines.find(({ msg, pid }) => msg === 'the proxy serves' && pid === second)
    expect(line!.time).toBeLessThanOrEqual(serves!.time)
    expect([
      asked.filter(url => url === '/first').length,
      asked.filter(url => url === '/second').length,
    ]).toEqual([1, 1])
    expect(asked.filter(url => !['/first', '/second'].includes(url))).toEqual([])
    expect(edge.lines.filter(each => JSON.stringify(each).includes('.invalid'))).toEqual([])
    expect(first).not.toBe(second)
  })

  it('relays none where it is told so', async () => {
    const { edge, warmed } = await edgeWith({ warmUp: '0s' })
    await edge.next()
    expect((await ask(edge.url).answer).headers['x-upstream']).toBe('app')
    expect(warmed()).toEqual([])
  })

  it('is ready in time, also where that is soon', async () => {
    const { edge } = await edgeWith({ warmUp: '1h', ready: '2s' })
    const second = await edge.next()
    expect((await ask(edge.url).answer).headers['x-pid']).toBe(String(second))
  })
})
