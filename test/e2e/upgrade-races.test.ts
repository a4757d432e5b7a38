import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import type { UpgradeProgress } from '../../src/operator/requests.js'
import { OWN_END_MS } from '../../src/versions/upgrade-attempt.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { ask, whoServes } from '../processes/client.js'
import { startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { socketsAt } from '../processes/sockets.js'
import { pause, until } from '../processes/until.js'

const TIMES = { probation: 0, heartbeat: 50, ready: 5_000 }

const TWO_TIMES = perLane(1, 20)

describe('several processes at once', () => {
  it(`two started together, ${TWO_TIMES} times: one is the first, the other its successor`, async () => {
    for (let round = 1; round <= TWO_TIMES; round++) {
      const scene = Scene.open({ upgrade: TIMES })
      const both = await Promise.all([scene.start(), scene.start()])
      const joined = await Promise.all(both.map(app => app.says('joined')))
      expect(joined.map(({ generation }) => generation).sort()).toEqual([1, 2])
      expect(joined.map(({ first }) => first).sort()).toEqual([false, true])
      const [older, newer] = joined[0]!.first ? both : [both[1]!, both[0]!]
      await newer!.serving()
      await older!.end()
      expect(older!.find('ended')).toMatchObject({ why: 'replaced' })
      expect(await scene.status()).toMatchObject({ pid: newer!.pid, generation: 2 })
      await scene.close()
    }
  })

  it('a third while one is joining: busy, retryable, and named', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve()
    // Ready only when the third has its answer, however long that takes.
    const readyFile = join(scene.folder, 'ready')
    const second = await scene.start({ readyFile })
    await second.says('joined')
    const third = await scene.start()
    expect(await third.failure()).toMatchObject({
      code: 'ERR_FDB_BUSY',
      retryable: true,
      message: expect.stringContaining(`${second.pid}`),
    })
    await third.end()
    scene.write('ready', '')
    await second.serving()
    await first.end()
    expect(await scene.status()).toMatchObject({ pid: second.pid, generation: 2, lastFailure: null })
  })

  it('one that arrives in probation waits for its end: both handoffs succeed', async () => {
    // The successor waits for longer than its own timeout.
    const scene = Scene.open({ upgrade: { ...TIMES, probation: 1_000 }, timeout: 1_000 })
    const first = await scene.serve()
    const second = await scene.serve()
    const third = await scene.serve()
    await first.end()
    expect(first.find('ended')).toMatchObject({ why: 'replaced' })
    await second.says('retiring')
    expect(await scene.status()).toMatchObject({ pid: third.pid, generation: 3 })
  })

  it('one that arrives in probation and fails leaves the way back: the first serves again when the second dies', async () => {
    const scene = Scene.open({ upgrade: { ...TIMES, probation: 60_000 }, timeout: 60_000 })
    const first = await scene.serve()
    const second = await scene.serve()
    await first.says('retiring')
    const third = await scene.start()
    await until('it is connected', () => socketsAt(scene.control) === 4)
    // The second answers a fourth one after it has read that the third waits.
    const fourth = await scene.start()
    expect(await fourth.failure()).toMatchObject({
      code: 'ERR_FDB_BUSY',
      message: expect.stringContaining(`${third.pid}`),
    })
    await fourth.end()
    // A process that the upgrade started would be refused, and the command might take the third for its own.
    await expect(second.order('upgrade')).rejects.toMatchObject({
      code: 'ERR_FDB_BUSY',
      retryable: true,
      message: expect.stringContaining(`process ${third.pid}, which was started before, waits to take over`),
    })
    await third.kill()
    await second.kill()
    await first.says('reinstated')
    expect(await scene.status()).toMatchObject({ pid: first.pid, role: 'serving' })
  })

  it('one that arrives long before the end of a probation is refused, and told when it is over', async () => {
    const scene = Scene.open({ upgrade: { ...TIMES, probation: 60_000 } })
    const first = await scene.serve()
    const second = await scene.serve()
    await first.says('retiring')
    await scene.statusWhere('the first reports', ({ probationSeconds }) => probationSeconds !== null)
    const message = expect.stringMatching(
      new RegExp(`process ${second.pid} is in probation: .* for another (59|60) s`),
    )
    const third = await scene.start()
    expect(await third.failure()).toMatchObject({ code: 'ERR_FDB_BUSY', retryable: true, message })
    await expect(second.order('upgrade')).rejects.toMatchObject({ code: 'ERR_FDB_BUSY', message })
    expect(first.story).not.toContain('retired')
  })

  it('one that is ordered while its version is rolled back: refused, and the version that serves then is left alone', async () => {
    const scene = Scene.open({ upgrade: { ...TIMES, probation: 60_000, quiesce: 60_000 }, timeout: 60_000 })
    const first = await scene.serve()
    const workFile = join(scene.folder, 'work')
    const second = await scene.serve({ workFile })
    await first.says('retiring')
    const rollback = scene.rollback()
    await second.says('ends its work')
    const message = expect.stringContaining(`process ${second.pid} is leaving`)
    await expect(second.order('upgrade')).rejects.toMatchObject({
      code: 'ERR_FDB_BUSY',
      retryable: true,
      message,
    })
    scene.write('work', '')
    await rollback
    expect(await scene.status()).toMatchObject({ pid: first.pid, role: 'serving' })
  })

  it('one that waits for a probation to end, when the process it waits for is killed: it is the successor of who serves then', async () => {
    const scene = Scene.open({ upgrade: { ...TIMES, probation: 60_000, silence: 60_000 }, timeout: 60_000 })
    const first = await scene.serve()
    // Never well, so that its probation cannot end: who comes has to wait.
    const sickFile = scene.write('sick', '')
    const second = await scene.serve({ sickFile, upgrade: { ...TIMES, silence: 60_000 } })
    await first.says('retiring')
    await scene.statusWhere('the first reports', ({ draining }) => draining.length === 1)
    await until('the operator has left', () => socketsAt(scene.control) === 3)
    const third = await scene.start({ upgrade: TIMES })
    await until('it waits', () => socketsAt(scene.control) === 4)
    expect(third.story).toEqual([])
    await second.kill()
    await third.serving()
    expect(await scene.status()).toMatchObject({ pid: third.pid })
  })

  it.runIf(NIGHTLY)(
    'one that waits can be told to stop waiting, and nobody is the worse for it',
    async () => {
      const scene = Scene.open({ upgrade: { ...TIMES, probation: 60_000, silence: 60_000 }, timeout: 60_000 })
      const first = await scene.serve()
      const second = await scene.serve({ sickFile: scene.write('sick', '') })
      await first.says('retiring')
      const third = await scene.start({ abortAfter: 300 })
      expect(await third.failure()).toMatchObject({
        message: expect.stringContaining('aborted due to timeout'),
      })
      await third.end()
      expect(await scene.status()).toMatchObject({ pid: second.pid, role: 'serving', blockedBy: [] })
    },
  )

  it('five that arrive at once: all but one are refused as busy, and the service goes on', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const first = await scene.serve({ routes: 10 })
    const five = await Promise.all(Array.from({ length: 5 }, () => scene.start({ readyDelay: 700 })))
    const outcome = (app: App) => app.find('serving') ?? app.find('failed')
    const outcomes = await Promise.all(
      five.map(app =>
        until(
          'it has an outcome',
          () => outcome(app),
          10_000,
          () => app.output,
        ),
      ),
    )
    const failed = outcomes.filter(({ say }) => say === 'failed')
    expect(failed.every(({ code, retryable }) => code === 'ERR_FDB_BUSY' && retryable)).toBe(true)
    expect(failed.length).toBeLessThan(5)
    await first.end()
    const { generation, pid } = await scene.statusWhere('all is quiet', ({ phase }) => phase === 'idle')
    expect(generation).toBe(6 - failed.length)
    expect(five.map(app => app.pid)).toContain(pid)
  })
})

describe('older generations that still drain', () => {
  it.runIf(NIGHTLY)(
    'three of them, each with a stream: a further upgrade works, and status lists them with their connections',
    async () => {
      const port = await freePort()
      const url = `http://127.0.0.1:${port}`
      const scene = Scene.open({
        upgrade: TIMES,
        listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
      })
      const old: App[] = []
      const streams = []
      let current = await scene.serve()
      for (let generation = 1; generation <= 3; generation++) {
        const some = Array.from({ length: generation }, () => ask(`${url}/stream?lines=60`))
        expect(await Promise.all(some.map(stream => stream.head))).toEqual(some.map(() => 200))
        streams.push(...some)
        old.push(current)
        current = await scene.serve()
        // For a moment both accept.
        await old.at(-1)!.says('retiring')
        expect(await whoServes(url)).toBe(current.pid)
      }
      const { draining } = await scene.statusWhere(
        'all three are listed',
        status => status.draining.length === 3 && status.draining.every(({ connections }) => connections > 0),
      )
      expect(draining.map(({ pid, generation, connections }) => ({ pid, generation, connections }))).toEqual(
        old.map(({ pid }, i) => ({ pid, generation: i + 1, connections: i + 1 })),
      )
      const next = await scene.serve()
      await current.end()
      expect(await whoServes(url)).toBe(next.pid)
      const again = await scene.statusWhere(
        'they report to the new one',
        status => status.draining.length === 3,
      )
      expect(again).toMatchObject({ pid: next.pid, generation: 5 })
      for (const { body } of await Promise.all(streams.map(stream => stream.answer))) {
        expect(body.trimEnd().split('\n')).toHaveLength(60)
      }
      for (const app of old) await app.end()
      await scene.statusWhere('none is left', status => status.draining.length === 0)
    },
  )

  it('end at their limit if a client never ends, and the process leaves', async () => {
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const scene = Scene.open({
      upgrade: TIMES,
      drain: { timeout: 500 },
      listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    })
    const first = await scene.serve()
    const endless = ask(`${url}/stream?lines=100000`)
    expect(await endless.head).toBe(200)
    await scene.serve()
    await first.end(5_000)
    expect(first.find('ended')).toMatchObject({ why: 'replaced' })
    await expect(endless.answer).rejects.toThrow()
    expect(first.said.find(({ message }) => /did not end in time/.test(message))).toMatchObject({
      busy: 1,
      idle: 0,
    })
  })
})

const APP = fileURLToPath(new URL('../fixtures/app.mjs', import.meta.url))
type Hosting = 'embedded' | 'daemon'
const HOSTINGS: readonly Hosting[] = ['embedded', 'daemon']

describe('an upgrade whose successor has not joined yet', () => {
  /** `first` serves, and an operator upgrades it: a shell that runs `script` starts the app, "$@". `$0`: a folder. */
  async function upgrading(hosting: Hosting, script: string, config: AppConfig = {}, times = TIMES) {
    const scene = Scene.open({ hosting, upgrade: times })
    if (hosting === 'daemon') await startDaemon(scene, { upgrade: times })
    const first = await scene.serve()
    const { folder } = scene
    const whole = { ...first.config, name: 'own', commands: `${folder}/own.sock`, folder, ...config }
    const app = [process.execPath, APP]
    const argv = ['env', `FDB_APP=${JSON.stringify(whole)}`, 'sh', '-c', script, folder, ...app]
    const client = await OperatorClient.connect(scene.control)
    onTestFinished(() => client.close())
    const steps: UpgradeProgress[] = []
    const progress = (step: UpgradeProgress) => void steps.push(step)
    const outcome = client.upgrade({ argv, progress }).catch(error => error)
    const { pid } = await until('its command runs', () => steps[0])
    return { scene, first, outcome, pid, steps }
  }

  const WAITS = 'while ! [ -e "$0/go" ]; do sleep 0.05; done; exec "$@"'

  it.each(HOSTINGS)(
    'goes on if a process of another command joins and gives up, %s hosting',
    async hosting => {
      const { scene, first, outcome, pid, steps } = await upgrading(hosting, WAITS)
      const other = await scene.start({ check: 'throw' })
      await other.failure()
      await other.end()
      scene.write('go', '')
      expect(await outcome).toMatchObject({ pid })
      expect(steps.every(step => step.pid === pid)).toBe(true)
      await first.end()
    },
  )

  it('tells which process serves if another command is faster, daemon hosting', async () => {
    const { scene, outcome, pid, steps } = await upgrading('daemon', WAITS)
    const other = await scene.serve()
    expect(await outcome).toMatchObject({ pid: other.pid, generation: 2 })
    expect(steps).toContainEqual(expect.objectContaining({ phase: 'unserved', pid }))
  })

  it('tells which process serves if its command is a wrapper, daemon hosting', async () => {
    const { outcome, pid, steps } = await upgrading('daemon', '"$@"; true')
    const answer = await outcome
    expect(answer).toMatchObject({ pid: expect.any(Number), generation: 2 })
    expect(answer.pid).not.toBe(pid)
    expect(readFileSync(`/proc/${answer.pid}/environ`, 'utf8')).toContain('"name":"own"')
    expect(steps.map(({ phase }) => phase)).not.toContain('unserved')
  })

  it.runIf(NIGHTLY).each(HOSTINGS)(
    'waits for a process that its command has had started elsewhere, and that takes long, %s hosting',
    async hosting => {
      // As a service manager does: in another session, without the environment, and the command ends before.
      const script = 'setsid env -u FD_BROKER_LAST_WORDS -u FD_BROKER_LAST_LINES "$@" & true'
      const { outcome } = await upgrading(hosting, script, { readyDelay: 4_000 })
      expect(await outcome).toMatchObject({ generation: 2 })
    },
  )

  it.runIf(NIGHTLY)(
    'leaves alone a process that has failed, is started once more by its wrapper, and serves',
    async () => {
      const script = `FDB_APP=$(echo "$FDB_APP" | sed 's/"name":"own"/"name":"bad","check":"throw"/') "$@"; exec "$@"`
      const times = { ...TIMES, probation: 60_000 }
      const { scene, first, outcome } = await upgrading('embedded', script, {}, times)
      expect(await outcome).toMatchObject({ message: expect.stringContaining('the warehouse is closed') })
      await first.says('retiring')
      const { pid } = await scene.status()
      await pause(OWN_END_MS + 1_000)
      expect(await scene.status()).toMatchObject({ pid, role: 'serving' })
    },
  )
})
