import { existsSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { ask, whoServes } from '../processes/client.js'
import { freePort, Scene } from '../processes/scene.js'

const TIMES = { probation: 0, heartbeat: 50, ready: 5_000 }

describe('where a member runs', () => {
  it('control: false: the same code, without upgrades', async () => {
    const port = await freePort()
    const scene = Scene.open({ listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }] })
    const alone = await scene.serve({ control: false })
    expect(await whoServes(`http://127.0.0.1:${port}`)).toBe(alone.pid)
    await alone.order('put', { key: 'a', value: { item: 'b' } })
    expect(await alone.status()).toMatchObject({
      hosting: 'none',
      control: null,
      generation: 1,
      role: 'serving',
    })
    await expect(alone.order('upgrade')).rejects.toMatchObject({ code: 'ERR_FDB_NO_CONTROL' })
    expect(existsSync(scene.control)).toBe(false)
    alone.signal('SIGTERM')
    await alone.end()
    expect(alone.find('ended')).toMatchObject({ why: 'closed' })
  })

  it.runIf(NIGHTLY)('a worker thread: it serves, takes over, and is replaced', async () => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open({
      upgrade: TIMES,
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    const first = await scene.serve({ inside: 'thread' })
    await first.order('put', { key: 'by', value: { item: 'a thread' } })
    expect(await whoServes(url)).toBe(first.pid)
    const second = await scene.serve({ inside: 'thread' })
    await first.end()
    expect(first.story.slice(-3)).toEqual(['retired', 'ended', 'threadExit'])
    expect(await second.order('get', { key: 'by' })).toEqual({ item: 'a thread' })
    const third = await scene.serve()
    await second.end()
    expect(await whoServes(url)).toBe(third.pid)
  })

  it('a worker of node:cluster is refused, with the remedy', async () => {
    const scene = Scene.open()
    const refused = await scene.start({ inside: 'cluster' })
    expect(await refused.failure()).toMatchObject({
      code: 'ERR_FDB_CLUSTER_WORKER',
      message: expect.stringContaining('primary'),
    })
    await refused.says('workerExit')
    await refused.end()
  })
})

describe('leaving and starting a successor by itself', () => {
  it('close() without a successor: what is under way is answered, the control path is gone, the process ends', async () => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open({ listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }] })
    const only = await scene.serve()
    const slow = ask(`${url}/slow?ms=600`)
    await scene.statusWhere('the request is here', ({ connections }) => connections === 1)
    only.signal('SIGTERM')
    expect(await slow.answer).toMatchObject({ body: 'slow but sure\n', headers: { connection: 'close' } })
    await only.end()
    expect(only.find('ended')).toMatchObject({ why: 'closed' })
    expect(existsSync(scene.control)).toBe(false)
    await expect(whoServes(url)).rejects.toThrow('ECONNREFUSED')
    const again = await scene.serve()
    expect(again.find('joined')).toMatchObject({ first: true })
  })

  it('close() of a successor that is not ready leaves the incumbent alone', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve()
    const shy = await scene.start({ readyDelay: 1_000 })
    await shy.says('joined')
    await shy.order('close', {})
    expect(await shy.failure()).toMatchObject({ code: 'ERR_FDB_CLOSED' })
    await shy.end()
    expect(await scene.status()).toMatchObject({ pid: first.pid, role: 'serving', phase: 'idle' })
    expect(existsSync(scene.control)).toBe(true)
  })

  it('close() during probation: the successor serves on', async () => {
    const scene = Scene.open({ upgrade: { ...TIMES, probation: 60_000 } })
    const first = await scene.serve()
    const second = await scene.serve({ upgrade: TIMES })
    await first.says('retiring')
    first.signal('SIGTERM')
    await first.end()
    expect(first.find('ended')).toMatchObject({ why: 'replaced' })
    await second.order('put', { key: 'on', value: { item: 'and on' } })
    expect(await scene.statusWhere('it decides', ({ phase }) => phase === 'idle')).toMatchObject({
      pid: second.pid,
    })
    expect(existsSync(scene.control)).toBe(true)
    await scene.serve()
    await second.end()
  })

  it('upgrade() starts the same command and resolves when that serves', async () => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open({
      upgrade: TIMES,
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    const first = await scene.serve()
    await expect(first.order('upgrade', { argv: ['/no/such/program'] })).rejects.toMatchObject({
      code: 'ERR_FDB_NO_BINARY',
    })
    await expect(
      first.order('upgrade', { argv: [process.execPath, '-e', 'process.exit(3)'] }),
    ).rejects.toMatchObject({
      code: 'ERR_FDB_SUCCESSOR_EXITED',
      message: expect.stringContaining('code 3'),
    })
    expect(await whoServes(url)).toBe(first.pid)
    const upgraded = await first.order<{ pid: number; generation: number }>('upgrade')
    expect(upgraded.generation).toBe(2)
    await first.says('retiring')
    expect(await whoServes(url)).toBe(upgraded.pid)
    await first.end()
    expect(await scene.status()).toMatchObject({ pid: upgraded.pid, generation: 2 })
  })
})
