import { execFileSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const UPGRADE = { probation: 30_000, heartbeat: 50 }
const HOSTINGS = ['embedded', 'daemon'] as const

interface Place {
  readonly scene: Scene
  readonly path: string
  readonly port: number
}

async function open(hosting: 'embedded' | 'daemon', upgrade = UPGRADE): Promise<Place> {
  const scene = Scene.open({ hosting, upgrade })
  if (hosting === 'daemon') await startDaemon(scene)
  return { scene, path: scene.file('web.sock'), port: await freePort() }
}

const wanted = ({ path, port }: Place, mode: string, backlog: number): AppConfig => ({
  listeners: [
    { name: 'path', spec: `unix:${path}${mode === '' ? '' : `?mode=${mode}`}` },
    { name: 'port', spec: `tcp://127.0.0.1:${port}?backlog=${backlog}` },
  ],
})

/** The options that clients meet, by the kernel's word. */
function options({ path, port }: Place): { mode: string; backlog: number } {
  const line = execFileSync('ss', ['-ltnH', `sport = :${port}`], { encoding: 'utf8' })
  return {
    mode: `0${(statSync(path).mode & 0o777).toString(8)}`,
    backlog: Number(line.trim().split(/\s+/)[2]),
  }
}

const optionsAre = (place: Place, mode: string, backlog: number) =>
  until(
    `clients meet mode ${mode} and backlog ${backlog}`,
    () => options(place).mode === mode && options(place).backlog === backlog,
    5_000,
    () => options(place),
  )

/** One that is refused as long as the one before is not known to be dead tries again. */
function next(scene: Scene, config: AppConfig): Promise<App> {
  return until('a version serves', async () => {
    const app = await scene.start(config)
    await until('it serves or has failed', () => app.find('serving') ?? app.find('failed'))
    return app.find('serving') ? app : null
  })
}

describe.each(HOSTINGS)('the options of a shared listener, %s hosting', hosting => {
  it.runIf(NIGHTLY || hosting === 'daemon')(
    'stay the incumbent’s while a successor starts and when it dies before its commit, and are the successor’s behind it',
    async () => {
      const place = await open(hosting)
      const { scene } = place
      const first = await scene.serve(wanted(place, '0666', 70))
      const doomed = await scene.start({ ...wanted(place, '0600', 7), hang: 'sleep' })
      await until('the successor has both listeners', () => doomed.said.filter(isListener).length === 2)
      expect(options(place)).toEqual({ mode: '0666', backlog: 70 })
      await doomed.kill()
      expect(options(place)).toEqual({ mode: '0666', backlog: 70 })
      const second = await next(scene, wanted(place, '0600', 7))
      await optionsAre(place, '0600', 7)
      expect(first.ended || second.ended).toBe(false)
    },
  )

  it.runIf(NIGHTLY || hosting === 'embedded')(
    'return to what they were, also where the incumbent asks for none, when a successor dies in probation',
    async () => {
      const place = await open(hosting)
      const { scene, path } = place
      const first = await scene.serve(wanted(place, '', 70))
      execFileSync('chmod', ['0647', path])
      const doomed = await scene.serve(wanted(place, '0600', 7))
      await optionsAre(place, '0600', 7)
      await first.says('retiring')
      await doomed.kill()
      await first.says('reinstated')
      await optionsAre(place, '0647', 70)
    },
  )
})

describe.each(HOSTINGS)('the path of a Unix listener that a version has bound, %s hosting', hosting => {
  const withNew = (place: Place, rest: AppConfig = {}): AppConfig => ({
    ...rest,
    listeners: [...wanted(place, '', 70).listeners!, { name: 'new', spec: `unix:${place.path}.new` }],
  })
  const bound = (app: App) => until('the path is bound', () => app.said.some(({ name }) => name === 'new'))

  it.runIf(NIGHTLY || hosting === 'daemon')(
    'goes with the version when it is killed before its commit',
    async () => {
      const place = await open(hosting)
      await place.scene.serve(wanted(place, '', 70))
      const doomed = await place.scene.start(withNew(place, { hang: 'sleep' }))
      await bound(doomed)
      expect(existsSync(`${place.path}.new`)).toBe(true)
      await doomed.kill()
      await until('the path is gone', () => !existsSync(`${place.path}.new`))
    },
  )

  it.runIf(NIGHTLY || hosting === 'embedded')('goes with the version when its check fails', async () => {
    const place = await open(hosting)
    await place.scene.serve(wanted(place, '', 70))
    const refused = await place.scene.start(withNew(place, { check: 'throw' }))
    await refused.failure()
    await until('the path is gone', () => !existsSync(`${place.path}.new`))
    expect(existsSync(place.path)).toBe(true)
  })

  it.runIf(NIGHTLY || hosting === 'daemon')(
    'goes with the version when it is killed in probation',
    async () => {
      const place = await open(hosting)
      const first = await place.scene.serve(wanted(place, '', 70))
      const doomed = await place.scene.serve(withNew(place))
      await first.says('retiring')
      await doomed.kill()
      await first.says('reinstated')
      await until('the path is gone', () => !existsSync(`${place.path}.new`))
    },
  )

  it.runIf(NIGHTLY || hosting === 'embedded')('stays with a version that serves for good', async () => {
    const place = await open(hosting, { ...UPGRADE, probation: 100 })
    const first = await place.scene.serve(wanted(place, '', 70))
    const second = await place.scene.serve(withNew(place))
    await first.end()
    expect(existsSync(`${place.path}.new`), second.output).toBe(true)
  })
})

function isListener({ say }: { say: string }): boolean {
  return say === 'listener'
}
