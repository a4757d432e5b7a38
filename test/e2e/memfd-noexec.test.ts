import { existsSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { RawClient } from '../connections-support/http-client.js'
import { perLane } from '../lanes/lane.js'
import { freePort, Scene } from '../processes/scene.js'

/** Linux 6.3 or newer. */
const KNOWN = existsSync('/proc/sys/vm/memfd_noexec')

/** A PID namespace of its own, in which memory files are made as this setting says. */
function inSystemWith(memfdNoexec: number): string[] {
  return [
    'unshare',
    ...(process.getuid?.() === 0 ? [] : ['--user', '--map-root-user']),
    ...['--pid', '--fork', '--kill-child', '--mount', '--mount-proc'],
    ...['sh', '-c', `echo ${memfdNoexec} > /proc/sys/vm/memfd_noexec && exec "$@"`, 'sh'],
  ]
}

describe.skipIf(!KNOWN).each(perLane([2], [1, 2]))('on a system with vm.memfd_noexec = %i', setting => {
  it('state and connections go on in the next process', async () => {
    const port = await freePort()
    const scene = Scene.open(
      {
        upgrade: { probation: 0, heartbeat: 50, ready: 20_000 },
        listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}`, server: 'http' }],
      },
      '/var/tmp',
    )
    const options = { wrap: inSystemWith(setting) }
    const first = await scene.serve({}, options)
    await first.order('put', { key: 'from', value: { item: 'the first' } })
    const clients = await Promise.all(Array.from({ length: 20 }, () => RawClient.to(port)))
    for (const client of clients) expect(await client.ask('/whoami')).toMatch(/^1,/)
    const second = await scene.serve({}, options)
    await first.end()
    expect(await second.order('get', { key: 'from' })).toEqual({ item: 'the first' })
    for (const client of clients) expect(await client.ask('/whoami')).toMatch(/^2,/)
    expect((await second.status()).moves).toMatchObject({ arrived: 20, lost: 0 })
  })
})
