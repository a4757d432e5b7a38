import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { whoServes } from '../processes/client.js'
import { loadOn } from '../processes/load.js'
import { freePort, Scene } from '../processes/scene.js'

/** Hidden from the others; not where this project lies. */
const HIDDEN = import.meta.dirname.startsWith('/tmp/') ? '/mnt' : '/tmp'

/** PID and mount namespaces of its own, with a folder of the system that no other process sees. */
const APART = [
  'unshare',
  ...(process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']),
  ...['--pid', '--fork', '--kill-child', '--mount', '--mount-proc'],
  ...['sh', '-c', `mount -t tmpfs none ${HIDDEN} && exec "$@"`, 'sh'],
]

describe('processes in different PID and mount namespaces that share only the folder of the control socket', () => {
  it.runIf(NIGHTLY)('replace each other: from outside to inside, to another inside, and back', async () => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open(
      {
        upgrade: { probation: 200, heartbeat: 50 },
        listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
      },
      '/var/tmp',
    )
    const outside = await scene.serve()
    await outside.order('put', { key: 'from', value: { item: 'outside' } })
    const load = await loadOn(url, { streams: 0 })
    const inside = await scene.serve({}, { wrap: APART })
    await outside.end()
    expect(outside.find('ended')).toMatchObject({ why: 'replaced' })
    // The server is the first process of its own namespace, and says so.
    expect(await whoServes(url)).toBe(1)
    expect(await inside.order('get', { key: 'from' })).toEqual({ item: 'outside' })
    const other = await scene.serve({}, { wrap: APART })
    await inside.end()
    expect(inside.find('ended')).toMatchObject({ why: 'replaced' })
    await other.order('put', { key: 'from', value: { item: 'inside' } })
    const back = await scene.serve()
    await other.end()
    expect(await back.order('get', { key: 'from' })).toEqual({ item: 'inside' })
    expect(await scene.status()).toMatchObject({
      generation: 4,
      pid: back.pid,
      blockedBy: [],
      lastFailure: null,
    })
    await load.stop()
  })

  it.runIf(NIGHTLY)(
    'notice each other’s death: killed before it was ready, a successor from inside does not block the next',
    async () => {
      const scene = Scene.open({ upgrade: { probation: 200, heartbeat: 50 } }, '/var/tmp')
      const outside = await scene.serve()
      const doomed = await scene.start({ hang: 'sleep' }, { wrap: APART })
      await doomed.says('joined')
      await doomed.kill()
      await scene.statusWhere(
        'it has failed',
        ({ lastFailure, blockedBy }) => lastFailure !== null && !blockedBy.length,
      )
      const inside = await scene.serve({}, { wrap: APART })
      await outside.end()
      const heir = await scene.start({ readyDelay: 300 })
      await heir.says('joined')
      // The whole namespace ends with its first process: the one outside inherits.
      await inside.kill()
      await heir.serving()
      expect(await scene.status()).toMatchObject({ generation: 3, pid: heir.pid })
    },
  )
})
