import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { describe, expect, it } from 'vitest'
import { hello, RawPeer } from '../processes/raw-peer.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

const LIMIT = 64

describe('a serving process that has no descriptor left', () => {
  it('refuses who wants to join, at whatever step it runs out, and serves on', async () => {
    const port = await freePort()
    const scene = Scene.open({ upgrade: { probation: 0, heartbeat: 50, ready: 20_000 } })
    const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }]
    const app = await scene.serve({ listeners, descriptors: LIMIT })
    const open = () => readdirSync(`/proc/${app.pid}/fd`).length
    const sockets: Socket[] = []
    const outcomes: string[] = []
    for (let free = 14; free >= 1; free--) {
      while (open() < LIMIT - free) {
        const before = open()
        const socket = connect(port, '127.0.0.1').on('error', () => {})
        sockets.push(socket)
        await once(socket, 'connect')
        await until('it is accepted', () => open() > before)
      }
      const peer = await RawPeer.connect(scene.control)
      peer.say(hello('JOIN'))
      const answer = await until(
        `an answer with ${free} descriptors left`,
        () => peer.heard.find(({ offer, reject, abort }) => offer ?? reject ?? abort),
        5_000,
        () => app.output.slice(-2_000),
      )
      outcomes.push(answer.offer ? 'offer' : (answer.reject?.code ?? answer.abort?.code ?? ''))
      peer.say({ abort: { code: 'ERR_FDB_CHECK' } })
      await pause(20)
      peer.leave()
      // The reporter asks for the newer segments, which cost a descriptor each while they are sent.
      const reporter = await RawPeer.connect(scene.control)
      reporter.say(hello('DRAINING'))
      await Promise.race([reporter.ended, pause(20)])
      reporter.leave()
      await until(
        `the descriptors of the attempt are closed (${free} were left)`,
        () => open() <= LIMIT - free,
        5_000,
        () => `${open()} open; ${outcomes}`,
      )
    }
    expect(app.ended).toBe(false)
    expect(outcomes[0]).toBe('offer')
    expect(new Set(outcomes.slice(-3))).toEqual(new Set(['ERR_FDB_NO_DESCRIPTORS']))
    for (const socket of sockets) socket.destroy()
    const second = await scene.serve({ listeners })
    await app.end()
    expect((await scene.status()).pid).toBe(second.pid)
  })
})
