import { describe, expect, it } from 'vitest'
import type { App, ListenerConfig } from '../processes/app.js'
import { Scene } from '../processes/scene.js'

const KINDS = ['tcp4', 'tcp6', 'udp', 'path', 'abstract'] as const

function listenersOf(scene: Scene, each: number): ListenerConfig[] {
  const specs = {
    tcp4: () => 'tcp://127.0.0.1:0',
    tcp6: () => 'tcp://[::1]:0',
    udp: () => 'udp://127.0.0.1:0',
    path: (i: number) => `unix:${scene.file(`s${i}.sock`)}`,
    abstract: (i: number) => `unix:@${scene.folder}/${i}`,
  }
  return KINDS.flatMap(kind =>
    Array.from({ length: each }, (_, i) => ({
      name: `${kind}-${i}`,
      spec: specs[kind](i),
      server: 'none' as const,
    })),
  )
}

/** The kernel's description of each held descriptor, in the app's own words. */
function held(app: App): object[] {
  return app.said.filter(line => line.say === 'held').map(({ kind, ino, dev }) => ({ kind, ino, dev }))
}

describe('descriptors of all kinds', () => {
  it('cross in one handoff, 300 listeners and named ones: each is the same kernel object', async () => {
    const scene = Scene.open({ upgrade: { probation: 0 }, hold: ['file', 'pipe', 'memfd'] })
    const listeners = listenersOf(scene, 60)
    const first = await scene.serve({ listeners })
    const before = await scene.status()
    expect(before.listeners).toHaveLength(300)
    expect(new Set(before.listeners.map(({ inode }) => inode)).size).toBe(300)
    const second = await scene.serve({ listeners })
    await first.end()
    const after = await scene.status()
    const identities = (status: typeof before) =>
      status.listeners.map(({ name, address, inode, cookie }) => ({ name, address, inode, cookie }))
    expect(identities(after)).toEqual(identities(before))
    expect(after.listeners.every(({ cookie }) => cookie !== null)).toBe(true)
    expect(after.held).toEqual(['file', 'pipe', 'memfd'])
    expect(held(second)).toHaveLength(3)
    expect(held(second)).toEqual(held(first))
    expect(second.said.filter(({ say, adopted }) => say === 'listener' && adopted)).toHaveLength(300)
    expect(second.find('ready')!.ms).toBeLessThan(3_000)
  })

  it('close if the new version does not want them, and only after the commit', async () => {
    const scene = Scene.open({ upgrade: { probation: 0, ready: 5_000 } })
    const [kept, dropped] = listenersOf(scene, 1)
    const first = await scene.serve({ listeners: [kept!, dropped!] })
    const failed = await scene.start({ listeners: [kept!], check: 'throw' })
    await failed.failure()
    const names = async () => (await scene.status()).listeners.map(({ name }) => name)
    expect(await names()).toEqual(['tcp4-0', 'tcp6-0'])
    const second = await scene.serve({ listeners: [kept!] })
    await first.end()
    expect(await names()).toEqual(['tcp4-0'])
    const third = await scene.serve({ listeners: [kept!, dropped!] })
    await second.end()
    expect(await names()).toEqual(['tcp4-0', 'tcp6-0'])
    expect(third.said.filter(({ say }) => say === 'listener').map(({ adopted }) => adopted)).toEqual([
      true,
      false,
    ])
  })
})
