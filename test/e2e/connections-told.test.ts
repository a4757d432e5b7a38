import { describe, expect, it } from 'vitest'
import { get, RawClient } from '../connections-support/http-client.js'
import { perLane } from '../lanes/lane.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause } from '../processes/until.js'

/** Asks again and again on one connection; ends when it is told to go, answered elsewhere, or cut. */
async function client(port: number): Promise<'told' | 'moved' | 'cut'> {
  const here = await RawClient.to(port)
  try {
    for (;;) {
      const { head, body } = await here.send(get('/whoami')).answer()
      if (/^connection: close$/im.test(head)) return 'told'
      if (body.startsWith('2,')) return 'moved'
      await pause(perLane(50, 20))
    }
  } catch {
    return 'cut'
  }
}

describe('a bound on the rate that lets too few connections go', () => {
  it('has none cut at the end of the drain that was never told', async () => {
    const port = await freePort()
    const scene = Scene.open({
      upgrade: { probation: 0, heartbeat: 50, ready: 20_000 },
      drain: { timeout: 4_000, movesPerSecond: 1 },
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'http' }],
    })
    const first = await scene.serve()
    const clients = Array.from({ length: 30 }, () => client(port))
    await scene.statusWhere('all are there', ({ listeners }) => listeners[0]!.connections === 30)
    await scene.serve()
    const ends = await Promise.all(clients)
    expect(ends.filter(end => end === 'cut')).toEqual([])
    expect(ends).toContain('told')
    await first.end()
  })
})
