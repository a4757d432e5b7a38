import { existsSync, mkdirSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { connect, createServer as createNetServer } from 'node:net'
import { describe, expect, it, onTestFinished } from 'vitest'
import { perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { serveByCommand, serviceWhere } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const UPGRADE = { probation: 200, heartbeat: 50 }

interface Place {
  readonly scene: Scene
  readonly daemon: App | null
  /** The paths of the listeners. */
  readonly paths: Record<'web' | 'admin', string>
}

async function open(hosting: 'embedded' | 'daemon', config: AppConfig = {}): Promise<Place> {
  const scene = Scene.open({ hosting, upgrade: UPGRADE, ...config })
  const daemon = hosting === 'daemon' ? await serveByCommand(scene) : null
  return { scene, daemon, paths: { web: scene.file('web.sock'), admin: scene.file('admin.sock') } }
}

const listeners = ({ paths }: Place, ...names: ('web' | 'admin')[]): AppConfig => ({
  listeners: names.map(name => ({ name, spec: `unix:${paths[name]}`, server: 'http' })),
})

/** Whether a process accepts there. */
function accepts(path: string): Promise<boolean> {
  return new Promise(resolve => {
    const socket = connect(path, () => resolve(true)).once('error', () => resolve(false))
    socket.once('connect', () => socket.destroy())
  })
}

describe('the path of a Unix listener', () => {
  it('goes on the last close, not with a generation that was replaced', async () => {
    const place = await open('embedded')
    const { scene, paths } = place
    const first = await scene.serve(listeners(place, 'web', 'admin'))
    const second = await scene.serve(listeners(place, 'web', 'admin'))
    await first.end()
    expect([await accepts(paths.web), await accepts(paths.admin)]).toEqual([true, true])
    second.signal('SIGTERM')
    await second.end()
    expect([existsSync(paths.web), existsSync(paths.admin)]).toEqual([false, false])
  })

  it.each(perLane(['daemon'] as const, ['embedded', 'daemon'] as const))(
    'goes when a version drops it, %s hosting',
    async hosting => {
      const place = await open(hosting)
      const { scene, paths } = place
      const first = await scene.serve(listeners(place, 'web', 'admin'))
      const second = await scene.serve(listeners(place, 'web'))
      await first.end()
      await until('the path of the listener that was dropped is gone', () => !existsSync(paths.admin))
      expect(await accepts(paths.web)).toBe(true)
      // Elsewhere under the same name: the old path is dropped too.
      const elsewhere = scene.file('elsewhere.sock')
      const third = await scene.serve({
        listeners: [{ name: 'web', spec: `unix:${elsewhere}`, server: 'http' }],
      })
      await second.end()
      await until('the former path is gone', () => !existsSync(paths.web))
      expect(await accepts(elsewhere)).toBe(true)
      expect(third.ended).toBe(false)
    },
  )

  it.each(perLane(['daemon'] as const, ['embedded', 'daemon'] as const))(
    'may lead through a link to itself for a while: the processes live on, %s hosting',
    async hosting => {
      const place = await open(hosting)
      const { scene, daemon, paths } = place
      const folder = scene.file('folder')
      mkdirSync(folder)
      const inFolder = `${folder}/web.sock`
      const first = await scene.serve({
        listeners: [
          { name: 'web', spec: `unix:${inFolder}`, server: 'http' },
          { name: 'admin', spec: `unix:${paths.admin}`, server: 'http' },
        ],
      })
      renameSync(folder, `${folder}.kept`)
      symlinkSync(folder, folder)
      // The same look at the paths restores this one.
      rmSync(paths.admin)
      await until('the paths were looked at', () => existsSync(paths.admin), 30_000)
      expect([first.ended, daemon?.ended ?? false]).toEqual([false, false])
      rmSync(folder)
      renameSync(`${folder}.kept`, folder)
      expect([await accepts(inFolder), await accepts(paths.admin)]).toEqual([true, true])
    },
  )

  it('stays for the one that comes back, when the version that dropped it dies in probation', async () => {
    const place = await open('embedded', { upgrade: { ...UPGRADE, probation: 30_000 } })
    const { scene, paths } = place
    const first = await scene.serve(listeners(place, 'web', 'admin'))
    const second = await scene.serve(listeners(place, 'web'))
    await first.says('retiring')
    await second.kill()
    await first.says('reinstated')
    expect(await accepts(paths.admin)).toBe(true)
  })

  it('stays alone when another process’s socket lies there', async () => {
    const place = await open('embedded')
    const { scene, paths } = place
    const first = await scene.serve(listeners(place, 'web', 'admin'))
    const other = createNetServer().listen(`${paths.admin}.other`)
    onTestFinished(() => void other.close())
    await until('the other listens', () => other.listening)
    renameSync(`${paths.admin}.other`, paths.admin)
    first.signal('SIGTERM')
    await first.end()
    expect(existsSync(paths.web), first.output).toBe(false)
    expect(await accepts(paths.admin)).toBe(true)
  })

  it('goes with the daemon that alone holds it, not with a member that dies or leaves', async () => {
    const place = await open('daemon')
    const { scene, daemon, paths } = place
    const member = await scene.serve(listeners(place, 'web'))
    await member.kill()
    await serviceWhere(scene, 'nobody serves', ({ pid }) => pid === null || pid === undefined)
    expect(existsSync(paths.web)).toBe(true)
    const again = await scene.serve(listeners(place, 'web'))
    expect(await accepts(paths.web)).toBe(true)
    again.signal('SIGTERM')
    await again.end()
    expect(existsSync(paths.web)).toBe(true)
    daemon!.signal('SIGTERM')
    await until(
      'the daemon says what it holds',
      () => daemon!.output.includes('no other process holds'),
      5_000,
      () => daemon!.output,
    )
    expect(existsSync(paths.web)).toBe(true)
    daemon!.signal('SIGTERM')
    await daemon!.end()
    expect(existsSync(paths.web)).toBe(false)
  })
})
