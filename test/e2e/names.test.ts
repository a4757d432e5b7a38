import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'

const TIMES = { probation: 0, heartbeat: 50, ready: 5_000 }

/** A service in its second generation: the process that bound the control path has ended. */
async function second(scene: Scene) {
  const first = await scene.serve()
  const next = await scene.serve()
  await first.end()
  return next
}

describe('a service names the process that lives and serves, not the one that once bound the control path', () => {
  it('as an operator’s peer, before it has answered and after', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const serving = await second(scene)
    using client = await OperatorClient.connect(scene.control)
    expect(client.peerPid).toBe(serving.pid)
    await client.status()
    expect(client.peerPid).toBe(serving.pid)
  })

  it('when it is stopped and does not answer: to an operator, and to a process that joins', async () => {
    const scene = Scene.open({ upgrade: TIMES, timeout: 600 })
    const stopped = await second(scene)
    stopped.signal('SIGSTOP')
    const late = { code: 'ERR_FDB_DEADLINE', message: expect.stringContaining(`process ${stopped.pid} `) }
    using client = await OperatorClient.connect(scene.control)
    await expect(client.status({ timeoutMs: 300 })).rejects.toMatchObject(late)
    const next = await scene.start()
    expect(await next.failure()).toMatchObject(late)
    await next.end()
    stopped.signal('SIGCONT')
    expect(await client.status()).toMatchObject({ pid: stopped.pid })
  })

  it('of a control path that was given back: the old process, which stands by no more', async () => {
    const scene = Scene.open({ upgrade: { ...TIMES, probation: 60_000, silence: 500 } })
    const first = await scene.serve()
    const second = await scene.serve()
    await first.says('retiring')
    using during = await OperatorClient.connect(scene.control)
    expect(during.peerPid).toBe(second.pid)
    await second.kill()
    await first.says('reinstated')
    using after = await OperatorClient.connect(scene.control)
    expect(after.peerPid).toBe(first.pid)
  })

  it('of a daemon', async () => {
    const scene = Scene.open({ hosting: 'daemon', upgrade: TIMES })
    const daemon = await startDaemon(scene)
    using client = await OperatorClient.connect(scene.control)
    expect(client.peerPid).toBe(daemon.pid)
    daemon.signal('SIGSTOP')
    await expect(client.status({ timeoutMs: 300 })).rejects.toMatchObject({
      message: expect.stringContaining(`process ${daemon.pid} `),
    })
  })

  it('no process, rather than one that is dead', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const serving = await second(scene)
    using client = await OperatorClient.connect(scene.control)
    await client.status()
    await serving.kill()
    await expect(client.status()).rejects.toMatchObject({ code: 'ERR_FDB_CHANNEL_CLOSED' })
    await expect(OperatorClient.connect(scene.control)).rejects.toMatchObject({ code: 'ERR_FDB_NO_HOLDER' })
  })
})
