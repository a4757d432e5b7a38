import { writeFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { servedBy, serviceWhere, startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'

const UPGRADE = { probation: 200, heartbeat: 50, silence: 500, freeze: 500 }

interface Group {
  readonly scene: Scene
  readonly daemon: App
  readonly writer: App
  readonly followers: readonly App[]
}

/** A service, and members of three others that follow it. */
async function open(upgrade = UPGRADE): Promise<Group> {
  const scene = Scene.open({ hosting: 'daemon', upgrade })
  const daemon = await startDaemon(scene, { upgrade })
  const writer = await scene.serve({ routes: 100 })
  const followers = await Promise.all(perLane([1, 2], [1, 2, 3]).map(slot => follow(scene, slot)))
  return { scene, daemon, writer, followers }
}

function follow(scene: Scene, slot: number): Promise<App> {
  return scene.serve({ service: `shop.${slot}`, options: { follow: 'shop', timeout: 20_000 } })
}

function reads(app: App, key: string): Promise<unknown> {
  return app.order<{ item: unknown } | null>('get', { key }).then(entry => entry?.item)
}

/** The same state is in view of all. */
async function agree(apps: readonly App[], key: string, item: unknown): Promise<void> {
  for (const app of apps) {
    await until(
      `${app.name} reads ${JSON.stringify(item)} of ${key}`,
      async () => (await reads(app, key)) === item,
      20_000,
      async () => ({ got: await reads(app, key), output: app.output }),
    )
  }
  const digests = await Promise.all(apps.map(async app => (await app.status()).state.digest))
  expect(new Set(digests).size).toBe(1)
}

/** Each of them counts until it is told to stop: at night as often as it can, which takes a processor; else about a hundred times a second. */
class Counting {
  readonly failures: string[] = []
  readonly #counted = new Map<App, number>()
  #running = true
  readonly #done: Promise<unknown>

  constructor(apps: readonly App[]) {
    for (const app of apps) this.#counted.set(app, 0)
    this.#done = Promise.all(apps.map(app => this.#count(app)))
  }

  async #count(app: App): Promise<void> {
    while (this.#running) {
      try {
        await app.order('count', { key: 'visits' })
        this.#counted.set(app, (this.#counted.get(app) ?? 0) + 1)
        if (!NIGHTLY) await pause(10)
      } catch (error) {
        this.failures.push((error as Error).message)
        return
      }
    }
  }

  get counted(): number {
    return [...this.#counted.values()].reduce((sum, count) => sum + count, 0)
  }

  /** Each follower has counted since: one that was away is back. */
  async more(count = 4): Promise<void> {
    const goals = [...this.#counted].map(([app, counted]) => [app, counted + count] as const)
    const enough = () => goals.every(([app, goal]) => this.#counted.get(app)! >= goal)
    const over = () => this.failures.length > 0 || enough()
    await until(`each counts ${count} times more`, over, 20_000, () => this.failures)
  }

  async stop(): Promise<void> {
    this.#running = false
    await this.#done
    expect(this.failures).toEqual([])
  }
}

describe('members that follow the state of another service', () => {
  it('have it before they are ready, see each change of the others, and begin anew when what they lack was merged, or is gone', async () => {
    const { scene, daemon, writer, followers } = await open()
    const all = [writer, ...followers]
    for (const app of followers) {
      expect(await app.says('joined')).toMatchObject({ first: false })
      expect(await app.says('ready')).toMatchObject({ routes: 100 })
    }
    for (const app of all) await app.order('watch')
    for (const [n, app] of all.entries()) {
      const value = { item: `of ${n}` }
      expect(await app.order('putNow', { key: `key-${n}`, value })).toMatchObject({ read: value })
    }
    for (const n of all.keys()) await agree(all, `key-${n}`, `of ${n}`)
    for (const app of all) {
      const seen = await app.order<{ key: string }[]>('seen')
      expect(seen.map(({ key }) => key)).toEqual([...all.keys()].map(n => `key-${n}`))
    }
    const [one] = followers
    one!.signal('SIGSTOP')
    await daemon.kill()
    const second = await startDaemon(scene, { upgrade: UPGRADE })
    await servedBy(scene, writer)
    let serving = writer
    for (let upgrade = 0; upgrade < 2; upgrade++) {
      const next = await scene.serve()
      await serving.end()
      await next.order('put', { key: `late-${upgrade}`, value: { item: upgrade } })
      serving = next
    }
    await serviceWhere(scene, 'what was written is merged', ({ segments }) => segments <= 3)
    one!.signal('SIGCONT')
    await agree([serving, ...followers], 'late-1', 1)
    await agree([serving, ...followers], `key-${all.length - 1}`, `of ${all.length - 1}`)
    const keys = async () => (await one!.order<{ key: string }[]>('seen')).map(({ key }) => key)
    expect((await keys()).slice(all.length)).toEqual(['late-0', 'late-1'])
    // All who have the service are killed: what was read stays until it has begun again.
    await second.kill()
    await serving.kill()
    expect(await reads(one!, 'late-1')).toBe(1)
    await startDaemon(scene, { upgrade: UPGRADE })
    const anew = await scene.serve({ routes: 5 })
    await agree([anew, ...followers], 'late-1', undefined)
    await one!.order('count', { key: 'visits' })
    await agree([anew, ...followers], 'visits', 1)
  })

  it('have changes made that one took without a daemon, which then had to leave and never served', async () => {
    const upgrade = { ...UPGRADE, quiesce: 30_000 }
    const scene = Scene.open({ hosting: 'daemon', upgrade })
    const daemon = await startDaemon(scene, { upgrade })
    const writer = await scene.serve()
    const member = { service: 'shop.1', options: { follow: 'shop' } }
    const first = await scene.serve({ ...member, workFile: scene.file('none') })
    const next = await scene.start(member)
    await first.says('ends its work')
    await daemon.kill()
    await until('the next version accepts', async () => (await next.order('phase')) === 'orphan')
    const put = next.order('put', { key: 'late', value: { item: 1 } })
    put.catch(() => {})
    // The answer to this question comes after the order is read.
    await next.order('phase')
    await startDaemon(scene, { upgrade })
    await put
    await agree([writer, first], 'late', 1)
  })

  it.runIf(NIGHTLY)(
    'go on when the one that writes is upgraded, comes back, is killed and replaced: each increment counts once',
    async () => {
      // The daemon decides how long a successor has to fall ill.
      const { scene, writer, followers } = await open({ ...UPGRADE, probation: 5000 })
      const counting = new Counting(followers)
      await counting.more()
      // Upgraded.
      const second = await scene.serve({ routes: 0 })
      await writer.end()
      await counting.more()
      // A successor that falls ill: the one before comes back.
      await serviceWhere(scene, 'it is settled', ({ pid, phase }) => pid === second.pid && phase === 'idle')
      const sickFile = scene.file('sick')
      const third = await scene.serve({ sickFile })
      await counting.more()
      writeFileSync(sickFile, '')
      await second.says('reinstated')
      await third.end()
      await counting.more()
      // Killed: changes wait for the next one.
      await serviceWhere(scene, 'it serves again', ({ pid, phase }) => pid === second.pid && phase === 'idle')
      await second.kill()
      const fourth = await scene.serve()
      await counting.more()
      await counting.stop()
      // One that follows is replaced.
      const now = [await follow(scene, 1), followers[1]!, followers[2]!]
      const more = new Counting(now)
      await more.more()
      await more.stop()
      await agree([fourth, ...now], 'visits', counting.counted + more.counted)
    },
  )

  it.runIf(NIGHTLY)(
    'go on when their daemon is killed and started again, and when it is upgraded: each increment counts once',
    async () => {
      const { scene, daemon, writer, followers } = await open()
      await servedBy(scene, writer)
      const counting = new Counting(followers)
      await counting.more()
      let present = daemon
      for (let restart = 0; restart < 2; restart++) {
        await present.kill()
        // Changes that are written meanwhile are read all the same.
        await writer.order('put', { key: `alone-${restart}`, value: { item: restart } })
        for (const app of followers)
          await until('it is read', async () => (await reads(app, `alone-${restart}`)) === restart, 20_000)
        present = await startDaemon(scene, { upgrade: UPGRADE })
        await counting.more()
      }
      await servedBy(scene, writer)
      const next = await startDaemon(scene, { upgrade: UPGRADE, takeOver: true })
      await present.end()
      await counting.more()
      await counting.stop()
      expect(next.ended).toBe(false)
      await agree([writer, ...followers], 'visits', counting.counted)
    },
  )
})
