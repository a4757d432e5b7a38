import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { signalPid } from '../processes/launch.js'
import { released } from '../processes/released.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

describe('a release of a program that fd-broker run supervises', () => {
  it.runIf(NIGHTLY)(
    'takes the link in an upgrade, and gives it to the previous version in a rollback, in its probation and after it',
    async () => {
      const settings = ['--ready', 'fd', '--probation', '2s']
      const { leadsTo, one, rollback, run, settled, answers, two, upgrade, wrong } = await released(settings)
      expect(await answers()).toBe('1')
      expect(await upgrade(wrong)).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/^ERR_FDB_SUCCESSOR_EXITED/),
      })
      expect([leadsTo(), await answers()]).toEqual([one, '1'])
      expect(await upgrade(two)).toMatchObject({ code: 0, stderr: '' })
      for (const inProbation of [true, false]) {
        expect([leadsTo(), await settled()]).toEqual([two, '2'])
        const { generation } = await run.status()
        if (!inProbation)
          await until('its probation is over', async () => (await run.status()).probationSeconds === null)
        expect(await rollback()).toMatchObject({
          code: 0,
          stdout: expect.stringMatching(
            new RegExp(
              `^generation ${generation + 1} \\(pid \\d+\\) serves: the previous version, started again\n$`,
            ),
          ),
        })
        expect([leadsTo(), await settled()]).toEqual([one, '1'])
        const { lastFailure, supervisor } = await run.status()
        expect(lastFailure).toMatchObject({
          ...{ code: 'ERR_FDB_SUCCESSOR_LEFT', phase: 'serving', old: false },
          message: expect.stringMatching(
            new RegExp(
              `^version ${generation} \\(.*, pid \\d+\\) is replaced by version \\d, which is started again: fd-broker rollback by uid ${process.getuid!()} \\(pid \\d+\\)$`,
            ),
          ),
        })
        expect(supervisor).toMatchObject({ again: inProbation ? 1 : generation - 1, before: null })
        const { code, stderr } = await rollback()
        expect({ code, stderr }).toEqual({
          code: 5,
          stderr: expect.stringMatching(/^ERR_FDB_NO_STANDBY: .*rollback --at PATH/),
        })
        if (inProbation) expect(await upgrade(two)).toMatchObject({ code: 0, stderr: '' })
      }
    },
  )

  it('stays when the version before does not come up again, and rollback tells why', async () => {
    const run = await Supervised.prepare()
    const gone = join(run.sandbox.folder, 'gone')
    await run.launch(['--ready', 'fd'], ['sh', '-c', `[ -e ${gone} ] && exit 9; exec ${SERVER}`])
    await run.serving()
    expect(await run.upgrade('--', SERVER)).toMatchObject({ code: 0 })
    const { pid } = await run.status()
    writeFileSync(gone, '')
    expect(await run.sandbox.run('rollback', '--control', run.control)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /^ERR_FDB_SUCCESSOR_EXITED: version 3 .* ended with code 9 before it served/,
      ),
    })
    expect(await run.status()).toMatchObject({ pid, generation: 2, role: 'serving' })
  })

  it('ends with its last version, and promises no other, if the version that a rollback started again crashes', async () => {
    const run = await Supervised.start(['--ready', 'fd'])
    await run.upgraded()
    expect(await run.sandbox.run('rollback', '--control', run.control)).toMatchObject({ code: 0 })
    signalPid((await run.status()).pid, 'SIGKILL')
    await run.ended()
    const { err } = await run.logged('the serving version has failed', ({ version }) => version === 3)
    expect(err.message).toMatch(
      /served and ended by signal 9 in its probation, .*: no other version is known to be good/,
    )
  })

  it('claims no return by a rollback that stops nothing: the next start of a failing version goes on', async () => {
    const run = await Supervised.prepare()
    const healthy = join(run.sandbox.folder, 'healthy')
    writeFileSync(healthy, '')
    const checks = ['--ready', `command:test -e ${healthy}`, '--health-interval', '20ms']
    const restarts = ['--restart', 'always', '--restart-delay', '20ms', '--probation', '100ms']
    await run.launch([...checks, ...restarts], ['sleep', '60'])
    await until('its probation is over', async () => {
      const { role, probationSeconds } = (await run.status().catch(() => null)) ?? {}
      return role === 'serving' && probationSeconds === null
    })
    rmSync(healthy)
    await until('the next one is started', async () => (await run.status()).phase === 'starting')
    expect(await run.sandbox.run('rollback', '--control', run.control, '--timeout', '1s')).toMatchObject({
      code: 4,
      stderr: expect.stringMatching(/^ERR_FDB_BUSY: .* is just starting a version/),
    })
    expect((await run.status()).phase).toBe('starting')
  })

  it.runIf(NIGHTLY)('starts by rollback --at where the supervisor knows no previous version', async () => {
    const { at, leadsTo, link, one, rollback, run, settled, two, upgrade } = await released(['--ready', 'fd'])
    expect(await upgrade(two)).toMatchObject({ code: 0, stderr: '' })
    expect(await run.sandbox.run('stop', '--control', run.control)).toMatchObject({ code: 0 })
    await run.ended()
    await run.launch(['--ready', 'fd'], [join(link, 'server')])
    await until('it serves', async () => (await run.status().catch(() => null))?.role === 'serving')
    expect([leadsTo(), await settled()]).toEqual([two, '2'])
    expect(await rollback()).toMatchObject({
      code: 5,
      stderr: expect.stringMatching(/^ERR_FDB_NO_STANDBY/),
    })
    expect(await rollback(...at)).toMatchObject({ code: 0, stderr: '' })
    expect([leadsTo(), await settled()]).toEqual([one, '1'])
  })

  it.runIf(NIGHTLY)(
    'ends when it does not serve within the time of the upgrade: the link and the serving version stay one',
    async () => {
      const { answers, at, leadsTo, one, run, two } = await released([
        '--ready',
        'fd',
        '--healthy-for',
        '10m',
      ])
      expect(await run.upgrade(...at, '--binary', two, '--timeout', '1s')).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/^ERR_FDB_DEADLINE: .*did not serve within 1000 ms .*--timeout/),
      })
      await until('nothing is left of it', async () => {
        const { draining, phase } = await run.status()
        return phase === 'idle' && draining.length === 0
      })
      expect([leadsTo(), await answers(), (await run.status()).generation]).toEqual([one, '1', 1])
    },
  )

  it('ends by rollback while it is to prove itself: the serving one stays, and the link comes back', async () => {
    const { answers, at, leadsTo, one, rollback, run, two, upgrade } = await released([
      '--ready',
      'fd',
      '--healthy-for',
      '10m',
    ])
    const { pid } = await run.whoami()
    const upgraded = upgrade(two)
    await until('it is on trial', async () => (await run.status()).phase === 'trial')
    const { child } = await run.logged('a version was started', line => line.version === 2)
    expect(await rollback(...at, '--json')).toMatchObject({ code: 0, stderr: '' })
    expect(await upgraded).toMatchObject({ code: 1, stderr: expect.stringMatching(/ERR_FDB_ABORTED/) })
    expect(leadsTo()).toBe(one)
    await run.ended(child)
    expect(await run.status()).toMatchObject({ pid, generation: 1, role: 'serving', phase: 'idle' })
    expect(await answers()).toBe('1')
  })
})
