import { spawnSync } from 'node:child_process'
import net from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join } from '../../../src/index.js'
import { untyped } from '../../fixtures/untyped.js'
import { Scene } from '../../processes/scene.js'
import { until } from '../../processes/until.js'

const CLIENTS = 60

/** A program with a long turn in which several clients come; it throws at the second one. */
const THROWS = `
import net from 'node:net'
import { join } from 'fd-broker'
const member = await join({ service: 'shop', control: process.env.CONTROL })
const web = await member.listen('tcp://127.0.0.1:0')
let accepted = 0
web.serve(net.createServer(() => {
  if (++accepted === 2) throw new Error('thrown by the program')
  if (accepted === 4) process.exit(0)
}))
await member.ready()
for (let n = 0; n < 8; n++) net.connect(web.address.port, '127.0.0.1').on('error', () => {})
const end = performance.now() + 20
while (performance.now() < end);
`

/** A server of a version whose turns of the event loop take 5 ms, and its clients, which have all connected. */
async function busy(server = net.createServer()) {
  const member = await join({ service: 'shop', control: Scene.open().control })
  onTestFinished(() => member.close({ timeout: 0 }))
  const web = await member.listen('tcp://127.0.0.1:0')
  web.serve(server)
  await member.ready()
  let turns = 0
  let isOver = false
  const turn = () => {
    turns++
    const end = performance.now() + 5
    while (performance.now() < end);
    if (!isOver) setImmediate(turn)
  }
  onTestFinished(() => {
    isOver = true
  })
  const clients = Array.from({ length: CLIENTS }, () => net.connect(web.address.port!, '127.0.0.1'))
  onTestFinished(() => clients.forEach(client => void client.on('error', () => {}).destroy()))
  turn()
  return { clients, server, turns: () => turns }
}

describe('a server whose turns of the event loop are long', () => {
  it('accepts several of the clients that wait in each turn', async () => {
    const { server, turns } = await busy()
    let accepted = 0
    server.on('connection', () => accepted++)
    await until('all are accepted', () => accepted === CLIENTS)
    expect(turns()).toBeLessThan(CLIENTS / 2)
  })

  it('does so also if it takes connections before Node makes sockets for them', async () => {
    const server = net.createServer()
    let accepted = 0
    server.on('listening', () => {
      const { _handle: handle } = untyped<{ _handle: { onconnection: unknown } }>(server)
      handle.onconnection = (_status: number, client: { close(): void }) => {
        accepted++
        client.close()
      }
    })
    const { turns } = await busy(server)
    server.on('connection', () => accepted++)
    await until('all are accepted', () => accepted === CLIENTS)
    expect(turns()).toBeLessThan(CLIENTS / 2)
  })

  it('accepts none beyond server.maxConnections', async () => {
    const { server } = await busy()
    server.maxConnections = 3
    let [accepted, dropped] = [0, 0]
    server.on('connection', () => accepted++).on('drop', () => dropped++)
    await until('all are accepted or dropped', () => accepted + dropped === CLIENTS)
    expect(accepted).toBe(3)
  })

  it('ends its program if a listener of its connections throws, as Node does', () => {
    const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', THROWS], {
      encoding: 'utf8',
      env: { ...process.env, CONTROL: Scene.open().control },
    })
    expect([status, stderr]).toEqual([1, expect.stringContaining('thrown by the program')])
  })

  it('accepts none when the program has closed it', async () => {
    const { server } = await busy()
    let accepted = 0
    server.on('connection', () => {
      if (++accepted === 2) server.close()
    })
    await until('it does not listen', () => !server.listening)
    const before = accepted
    for (let n = 0; n < 10; n++) await new Promise(resolve => setImmediate(resolve))
    expect(accepted).toBe(before)
    expect(before).toBeLessThan(CLIENTS)
  })
})
