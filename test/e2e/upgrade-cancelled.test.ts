import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { whoServes } from '../processes/client.js'
import { startDaemon } from '../processes/daemon.js'
import { hasEnded } from '../processes/launch.js'
import { loadOn } from '../processes/load.js'
import { ask } from '../processes/operator.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { Sandbox, urlOf, whoami } from './cli-processes.js'

const APP = fileURLToPath(new URL('../fixtures/app.mjs', import.meta.url))
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const TIMES = { probation: 200, heartbeat: 50 }

interface Place {
  readonly scene: Scene
  readonly first: App
  readonly url: string
}

async function open(hosting: 'embedded' | 'daemon', config: AppConfig = {}): Promise<Place> {
  const port = await freePort()
  const scene = Scene.open({
    hosting,
    upgrade: TIMES,
    listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }],
    ...config,
  })
  if (hosting === 'daemon') await startDaemon(scene, { upgrade: { ...TIMES, ...config.upgrade } })
  return { scene, first: await scene.serve(), url: `http://127.0.0.1:${port}` }
}

/** The order by which `first` starts a successor that is an app too, with a log of its own. */
function successor({ scene, first }: Place, config: AppConfig = {}) {
  const commands = scene.file('successor.sock')
  const whole = { ...first.config, name: 'successor', commands, folder: scene.folder, ...config }
  return { argv: [process.execPath, APP], env: { FDB_APP: JSON.stringify(whole) } }
}

/** The outcome of the order. */
const outcome = (order: Promise<unknown>) =>
  order.then(
    answer => ({ ok: true as const, answer }),
    error => ({ ok: false as const, code: error.code as string, message: error.message as string }),
  )

/** `first` serves alone, and its next upgrade works. */
async function servesAlone({ scene, first, url }: Place, ended: number): Promise<void> {
  expect(hasEnded(ended)).toBe(true)
  expect(await whoServes(url)).toBe(first.pid)
  await first.order('put', { key: 'still', value: { item: 'mine' } })
  const next = await scene.serve()
  expect(await next.order('get', { key: 'still' })).toEqual({ item: 'mine' })
  await first.end()
}

/** Pid of the successor that `first` has started. */
async function started(first: App): Promise<number> {
  return (await first.says('progress')).pid
}

describe.each(perLane<('embedded' | 'daemon')[]>(['embedded'], ['embedded', 'daemon']))(
  'an upgrade that is cancelled, %s hosting',
  hosting => {
    it('before the successor has joined: it is ended, and the incumbent serves on', async () => {
      const place = await open(hosting)
      const { first } = place
      const argv = [process.execPath, '-e', 'process.on("SIGTERM", () => {}); setInterval(() => {}, 1e6)']
      const upgrade = outcome(first.order('upgrade', { argv }))
      const pid = await started(first)
      void first.order('abort')
      // The next one waits until the cancelled one is over.
      const next = outcome(first.order('upgrade', { argv: [process.execPath, '-e', 'process.exit(3)'] }))
      const result = await upgrade
      expect(result).toMatchObject({ ok: false, code: 'ERR_FDB_ABORTED' })
      expect(await next).toMatchObject({ ok: false, code: 'ERR_FDB_SUCCESSOR_EXITED' })
      expect(result).toMatchObject({ message: expect.stringContaining(`process ${first.pid} serves on`) })
      await servesAlone(place, pid)
    })

    it('with a successor that is being made ready: no client notices', async () => {
      const place = await open(hosting)
      const { first, url } = place
      const load = await loadOn(url, { rate: 100, streams: 0 })
      const upgrade = outcome(first.order('upgrade', successor(place, { hang: 'sleep' })))
      const pid = await started(first)
      await until('it has joined', () => joined(first) === 2)
      await first.order('abort')
      expect(await upgrade).toMatchObject({
        ok: false,
        code: 'ERR_FDB_ABORTED',
        message: expect.stringContaining(`successor ${pid} was ended; process ${first.pid} serves on`),
      })
      await servesAlone(place, pid)
      await load.stop()
    })

    it.runIf(NIGHTLY)('when the incumbent is frozen already and the successor does not answer', async () => {
      const place = await open(hosting, { upgrade: { ...TIMES, freeze: 200 } })
      const { first } = place
      const upgrade = outcome(
        first.order('upgrade', successor(place, { traps: { 'member ready': 'SIGSTOP' } })),
      )
      const pid = await started(first)
      await until('the incumbent is frozen', async () => (await first.order('phase')) === 'frozen')
      await first.order('abort')
      expect(await upgrade).toMatchObject({ ok: false, code: 'ERR_FDB_ABORTED' })
      await servesAlone(place, pid)
    })

    it.runIf(NIGHTLY)('after the Commit: too late, the answer says that the successor serves', async () => {
      const place = await open(hosting, { upgrade: { ...TIMES, probation: 3_000 } })
      const { first, url } = place
      const order = successor(place, { traps: { 'member serving': 'SIGSTOP' } })
      const upgrade = outcome(first.order('upgrade', order))
      const pid = await started(first)
      // The successor has its Commit, and was stopped before it could say Serving.
      await until('the successor has stopped', () => first.output.includes('"say":"trapped"'))
      await first.order('abort')
      process.kill(pid, 'SIGCONT')
      expect(await upgrade).toMatchObject({ ok: true, answer: { pid } })
      await until('it answers', async () => (await whoServes(url)) === pid)
      await first.end()
      expect(hasEnded(pid)).toBe(false)
    })

    it('by an order to end at once, before the successor has joined: no step says that it serves', async () => {
      const { first } = await open(hosting)
      const argv = [process.execPath, '-e', 'setInterval(() => {}, 1e6)']
      void outcome(first.order('upgrade', { argv }))
      const pid = await started(first)
      void outcome(first.order('close', { timeout: 0 }))
      await until('the successor has ended', () => hasEnded(pid))
      await until('the incumbent has ended', () => hasEnded(first.pid))
      const steps = first.said.filter(({ say }) => say === 'progress')
      expect(steps.map(({ phase }) => phase)).toEqual(['started'])
    })

    it('by a TERM of the incumbent: the successor ends with it', async () => {
      const place = await open(hosting)
      const { scene, first } = place
      void outcome(first.order('upgrade', successor(place, { hang: 'sleep' })))
      const pid = await started(first)
      await until('it has joined', () => joined(first) === 2)
      first.signal('SIGTERM')
      await first.end()
      await until('the successor has ended', () => hasEnded(pid), 2_000)
      if (hosting === 'daemon') return
      await expect(ask(scene.control, { statusRequest: {} }, ({ status }) => status, 1_000)).rejects.toThrow()
    })
  },
)

function joined(app: App): number {
  return app.said.filter(({ say }) => say === 'joined').length
}

describe('fd-broker upgrade that is interrupted', () => {
  const interrupts = [
    [
      'SIGTERM',
      'that has joined',
      [process.execPath, '-e', "import('fd-broker').then(({ join }) => join(JSON.parse(process.argv[1])))"],
    ],
    ['SIGINT', 'that has not joined', [process.execPath, '-e', 'setInterval(() => {}, 1e6)']],
  ] as const
  it.each(interrupts.slice(0, perLane(1, 2)))(
    'by %s, with a successor %s: ends it, and says who serves',
    async (signal, _, command) => {
      const sandbox = Sandbox.open()
      const pid = await sandbox.shop()
      const url = urlOf(await sandbox.status())
      const options = JSON.stringify({ service: 'shop', control: sandbox.control })
      const args = ['upgrade', '--control', sandbox.control, '--', ...command, options]
      const child = spawn(process.execPath, [CLI, ...args], { env: sandbox.env })
      let output = ''
      for (const stream of [child.stdout, child.stderr])
        stream.setEncoding('utf8').on('data', text => (output += text))
      const exit = new Promise<number | null>(resolve => child.once('close', resolve))
      const told = signal === 'SIGINT' ? 'started' : 'offering'
      await until(
        `the successor is ${told}`,
        () => output.includes(` ${told} `),
        10_000,
        () => output,
      )
      child.kill(signal)
      expect(await exit).toBe(1)
      expect(output).toMatch(new RegExp(`^ERR_FDB_ABORTED: .*was ended; process ${pid} serves on$`, 'm'))
      const [, successor] = /started +pid (\d+)/.exec(output) ?? []
      expect(hasEnded(Number(successor))).toBe(true)
      expect(await whoami(url)).toEqual({ generation: 1, pid })
      const again = await sandbox.run('upgrade', '--control', sandbox.control)
      expect({ code: again.code, stderr: again.stderr }).toEqual({ code: 0, stderr: '' })
    },
  )
})
