import { describe, expect, it } from 'vitest'
import { ask } from '../processes/client.js'
import { Edge, upstream } from '../processes/edge.js'

const SAID = 'this process relayed requests to itself, so that V8 compiles the code'

/** A proxy whose only server notes its requests. */
async function edgeWith(drain: object) {
  const app = await upstream()
  const asked: string[] = []
  app.server.prependListener('request', ({ url }) => asked.push(String(url)))
  const edge = await Edge.start({
    upstreams: { app: { servers: [app.url] } },
    routes: [{ host: '*', upstream: 'app' }],
    accessLog: true,
    upgrade: { probation: '0s' },
    drain,
  })
  const warmed = () => edge.lines.filter(({ msg }) => msg === SAID)
  return { edge, asked, warmed }
}

describe('the next version of a proxy', () => {
  it('relays requests to itself while its first clients come, which nobody else sees', async () => {
    const { edge, asked, warmed } = await edgeWith({ firstWave: '10s' })
    const first = await edge.pid
    expect((await ask(`${edge.url}/first`).answer).headers['x-upstream']).toBe('app')
    const second = await edge.next()
    expect((await ask(`${edge.url}/second`).answer).headers['x-pid']).toBe(String(second))
    const line = await edge.logged(SAID)
    expect([line.pid, line.requests, first === second]).toEqual([second, 1_000, false])
    expect(warmed().length).toBe(1)
    const times = (path: string) => asked.filter(url => url === path).length
    expect([times('/first'), times('/second')]).toEqual([1, 1])
    expect(asked.filter(url => !['/first', '/second'].includes(url))).toEqual([])
    expect(edge.lines.filter(each => JSON.stringify(each).includes('.invalid'))).toEqual([])
  })

  it('relays none where all clients come at once', async () => {
    const { edge, warmed } = await edgeWith({ firstWave: '0s' })
    const second = await edge.next()
    expect((await ask(edge.url).answer).headers['x-upstream']).toBe('app')
    // One that had begun would say so when another serves.
    await edge.next()
    await edge.ended(second)
    expect(warmed()).toEqual([])
  })
})
