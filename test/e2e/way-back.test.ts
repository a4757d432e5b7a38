import { execFile } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import type { FdbError } from '../../src/errors.js'
import { join as joinService } from '../../src/member/joining/join.js'
import { OperatorClient } from '../../src/operator/client.js'
import { ROLLBACK } from '../../src/operator/service-commands.js'
import type { StatusReport } from '../../src/operator/status-report.js'
import { perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { ask } from '../processes/client.js'
import { serviceStatus, startDaemon } from '../processes/daemon.js'
import { freePort, Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
/** Long enough to fail in it. */
const LONG = { probation: 60_000, heartbeat: 50, silence: 400 }
/** Versions that only read what they know, and one that writes more. */
const FIRST = { schema: { version: 1 } }
const SECOND = { schema: { version: 2, minReader: 2 } }

async function open(hosting: 'embedded' | 'daemon', defaults: AppConfig = {}) {
  const port = await freePort()
  const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }]
  const scene = Scene.open({ hosting, routes: 5, upgrade: LONG, listeners, ...defaults })
  if (hosting === 'daemon') await startDaemon(scene, { upgrade: defaults.upgrade ?? LONG })
  const status = async (): Promise<StatusReport> =>
    hosting === 'daemon' ? await serviceStatus(scene) : await scene.status()
  return { scene, status, target: `http://127.0.0.1:${port}` }
}

async function whoAnswers(target: string): Promise<number> {
  return Number((await ask(`${target}/whoami`).answer).body.split(',')[1])
}

async function standsBy(app: App): Promise<void> {
  await until('the elder stands by', async () => (await app.order('phase')) === 'standby')
}

describe.each(perLane<('embedded' | 'daemon')[]>(['embedded'], ['embedded', 'daemon']))(
  'a way back that cannot be taken, %s',
  hosting => {
    it('leaves a successor that lives alone; with it dead, reads are served until the next version repairs it', async () => {
      const { scene, status, target } = await open(hosting)
      const elder = await scene.serve(FIRST)
      const sickFile = join(scene.folder, 'sick')
      const second = await scene.serve({ ...SECOND, sickFile })
      await standsBy(elder)
      await second.order('put', { key: 'of the second', value: { item: 'x' } })
      // A read is what it takes to see what another has written.
      await until('the elder knows', async () => {
        await elder.order('get', { key: '0' })
        return (await elder.status()).unfit?.code === 'ERR_FDB_SCHEMA'
      })
      await until('status says it', async () => {
        const { draining } = await status()
        return draining.find(({ pid }) => pid === elder.pid)?.unfit?.code === 'ERR_FDB_SCHEMA'
      })
      writeFileSync(sickFile, '')
      if (hosting === 'embedded') {
        await until('it is kept', () => elder.output.includes('the successor is not healthy but is kept'))
      }
      await second.order('put', { key: 'later', value: { item: 'y' } })
      expect(await whoAnswers(target)).toBe(second.pid)
      expect(elder.story).not.toContain('reinstated')

      await second.kill()
      expect(await elder.says('unfit')).toMatchObject({
        code: 'ERR_FDB_UNFIT',
        message: expect.stringContaining('schema version 2'),
      })
      await until('the elder answers', async () => (await whoAnswers(target).catch(() => 0)) === elder.pid)
      expect(await elder.order('get', { key: '0' })).toEqual({ item: 'item-0' })
      await expect(elder.order('put', { key: 'z', value: { item: 'z' } })).rejects.toMatchObject({
        code: 'ERR_FDB_UNFIT',
        message: expect.stringMatching(/schema version 2.*upgrade/s),
      })
      await until('status says that nobody writes', async () => {
        const { pid, role, phase, unfit } = await status()
        return pid === elder.pid && role === 'unfit' && phase === 'idle' && unfit?.code === 'ERR_FDB_SCHEMA'
      })

      const third = await scene.serve(SECOND)
      await third.order('put', { key: 'of the third', value: { item: 'z' } })
      const all = await third.order<Record<string, unknown>>('all')
      expect(all).toMatchObject({
        'of the second': { item: 'x' },
        later: { item: 'y' },
        'of the third': { item: 'z' },
      })
      await standsBy(elder)
      expect(await whoAnswers(target)).toBe(third.pid)
    })

    it('because of a limit is known to the successor only when it is turned away from, and it goes on', async () => {
      const { scene, status, target } = await open(hosting)
      const elder = await scene.serve({ options: { stateLimits: { keyBytes: 8 } } })
      const sickFile = join(scene.folder, 'sick')
      const second = await scene.serve({ sickFile })
      await standsBy(elder)
      writeFileSync(sickFile, '')
      const keys = Array.from({ length: 50 }, (_, i) => `a longer key ${i}`)
      for (const key of keys) await second.order('put', { key, value: { item: key } })
      await until('it has tried, or seen', async () => {
        const { unfit } = await elder.status()
        return unfit?.code === 'ERR_FDB_STATE_LIMIT' && (await status()).pid === second.pid
      })
      await second.order('put', { key: 'later', value: { item: 'y' } })
      expect(Object.keys(await second.order<object>('all'))).toEqual(
        expect.arrayContaining([...keys, 'later']),
      )
      expect(await whoAnswers(target)).toBe(second.pid)
    })
  },
)

describe.each(['embedded', 'daemon'] as const)(
  'a standby that cannot read the state any more, %s',
  hosting => {
    it('gets no service back by a rollback, even right after the change, and the refusal says why', async () => {
      const { scene, status, target } = await open(hosting)
      const elder = await scene.serve(FIRST)
      const second = await scene.serve(SECOND)
      await standsBy(elder)
      using client = await OperatorClient.connect(scene.control)
      if (hosting === 'daemon') {
        await second.order('put', { key: 'a', value: { item: 'x' } })
        await until('it is known', async () =>
          (await status()).draining.some(({ unfit }) => unfit !== undefined),
        )
      } else {
        await until('it reports', async () => (await status()).probationSeconds !== null)
        await second.order('put', { key: 'a', value: { item: 'x' } })
      }
      const asked = client.command(ROLLBACK, '', hosting === 'daemon' ? { service: 'shop' } : {})
      await expect(asked).rejects.toMatchObject({
        code: 'ERR_FDB_NO_STANDBY',
        message: expect.stringMatching(
          /cannot take over again, so .* keeps serving \(ERR_FDB_SCHEMA: .*version 2/,
        ),
      })
      await second.order('put', { key: 'b', value: { item: 'y' } })
      expect(await whoAnswers(target)).toBe(second.pid)
      const [serving, draining] = [second.pid, [{ pid: elder.pid, unfit: { code: 'ERR_FDB_SCHEMA' } }]]
      expect(await status()).toMatchObject({ pid: serving, role: 'serving', draining })
      const shown = await promisify(execFile)(process.execPath, [CLI, 'status', '--control', scene.control])
      const line = `standby +no process can take over: process ${elder.pid} stands by, and cannot write: ERR_FDB_SCHEMA`
      if (hosting === 'embedded') expect(shown.stdout).toMatch(new RegExp(line))
    })
  },
)

describe.each(perLane<('embedded' | 'daemon')[]>(['embedded'], ['embedded', 'daemon']))(
  'fd-broker refuses a rollback after the probation, %s,',
  hosting => {
    it('and says how long ago the probation ended, and the remedy', async () => {
      const upgrade = { probation: 100, heartbeat: 50 }
      const { scene, status, target } = await open(hosting, { upgrade })
      await scene.serve()
      const asked = async () => {
        using client = await OperatorClient.connect(scene.control)
        const order = client.command(ROLLBACK, '', hosting === 'daemon' ? { service: 'shop' } : {})
        return await order.then(
          () => expect.unreachable(),
          (error: FdbError) => [error.code, error.message],
        )
      }
      const remedy =
        'To return to the previous release, start it as the next version: fd-broker upgrade -- COMMAND'
      expect(await asked()).toEqual([
        'ERR_FDB_NO_STANDBY',
        expect.stringMatching(
          `^no process stands by for .* its probation is over, or it is the first version. ${remedy}$`,
        ),
      ])
      const second = await scene.serve()
      await until('the probation is over', async () => {
        const { pid, phase } = await status()
        return pid === second.pid && phase === 'idle'
      })
      expect(await asked()).toEqual([
        'ERR_FDB_NO_STANDBY',
        expect.stringMatching(
          `^no process stands by for .* its probation ended \\d+ (?:s|min) ago. ${remedy}$`,
        ),
      ])
      expect(await whoAnswers(target)).toBe(second.pid)
    })
  },
)

it('a process whose standby cannot take over ends the service when it is closed, with the standby', async () => {
  const { scene } = await open('embedded')
  const elder = await scene.serve(FIRST)
  const second = await scene.serve(SECOND)
  await standsBy(elder)
  await until('it reports', async () => (await scene.status()).probationSeconds !== null)
  await second.order('put', { key: 'a', value: { item: 'x' } })
  second.signal('SIGTERM')
  await Promise.all([second.end(), elder.end()])
  expect(second.find('retired')).toMatchObject({ why: 'closed' })
  expect(elder.find('retired')).toMatchObject({ why: 'replaced' })
  expect(elder.story).not.toContain('unfit')
})

describe('a joiner that gave up before anything was handed to it', () => {
  it('blocks nobody, though its process lives on', async () => {
    const { scene } = await open('embedded')
    const incumbent = await scene.serve()
    incumbent.signal('SIGSTOP')
    const { control } = scene
    await expect(joinService({ service: 'shop', control, timeout: 300 })).rejects.toMatchObject({
      code: 'ERR_FDB_DEADLINE',
    })
    incumbent.signal('SIGCONT')
    await until('the incumbent has heard of it', () => incumbent.output.includes('the handoff failed'))
    const next = await joinService({ service: 'shop', control })
    await next.close({ timeout: 0 })
    expect((await incumbent.status()).blockedBy).toEqual([])
  })
})

describe('a rollback', () => {
  it('fails at once if the standby dies before the version that serves has left, and that version serves on', async () => {
    const { scene, target } = await open('embedded', {
      upgrade: { probation: 60_000, heartbeat: 10_000, silence: 60_000 },
    })
    const elder = await scene.serve()
    const second = await scene.serve()
    await standsBy(elder)
    // The version that serves waits for a report of the standby.
    elder.signal('SIGSTOP')
    using client = await OperatorClient.connect(scene.control)
    const answer = client.command(ROLLBACK, '').catch(error => error)
    await scene.status()
    await elder.kill()
    expect(await answer).toMatchObject({ code: 'ERR_FDB_NO_STANDBY' })
    expect(await whoAnswers(target)).toBe(second.pid)
    expect(await second.order('phase')).toBe('serving')
    await second.order('put', { key: 'later', value: { item: 'x' } })
    await (await scene.serve()).order('get', { key: 'later' })
  })
})
