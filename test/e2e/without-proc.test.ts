import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { Scene } from '../processes/scene.js'
import { Sandbox } from './cli-processes.js'

const ROOT = process.getuid?.() === 0
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
/** Before a command: its process has no /proc. */
const WITHOUT = ['unshare', '-m', 'sh', '-c', 'umount -l /proc; exec "$@"', 'sh']

describe.runIf(ROOT)('in a mount namespace of its own', () => {
  it('without /proc, the incumbent hands nothing over, and both sides hear that /proc is missing', async () => {
    const scene = Scene.open({ upgrade: { probation: 200, heartbeat: 50 } })
    const first = await scene.serve({}, { wrap: WITHOUT })
    const refused = await scene.start({}, { wrap: WITHOUT })
    expect(await refused.failure()).toMatchObject({
      code: 'ERR_FDB_NO_PROC',
      message: expect.stringContaining('mount -t proc'),
    })
    expect(await first.order('phase')).toBe('serving')
  })

  it('without /proc, fd-broker doctor fails, because upgrades do', async () => {
    const { code, stdout } = await Sandbox.open().runCommand([...WITHOUT, process.execPath, CLI, 'doctor'])
    expect(stdout).toMatch(/^failed +\/proc: not mounted: upgrades fail/m)
    expect(code).toBe(1)
  })

  it('with a control folder that is read-only, the version that starts says so', async () => {
    const scene = Scene.open({ upgrade: { probation: 200, heartbeat: 50 } })
    const first = await scene.serve()
    const mounts = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    const wrap = ['unshare', '-m', 'sh', '-c', mounts, scene.file('run')]
    const refused = await scene.start({}, { wrap })
    expect(await refused.failure()).toMatchObject({
      code: 'ERR_FDB_CONTROL_PATH',
      message: expect.stringMatching(/EROFS.*read-only file system.*read-write/),
    })
    expect((await scene.status()).pid).toBe(first.pid)
  })
})
