import { describe, expect, it } from 'vitest'
import { released } from '../processes/released.js'
import { until } from '../processes/until.js'

describe('a release of a program that fd-broker run supervises', () => {
  it('is upgraded to by its link; one that fails leaves it; rollback upgrades to the one before', async () => {
    const { answers, at, leadsTo, one, rollback, run, two, upgrade, wrong } = await released([
      '--ready',
      'fd',
    ])
    expect(await answers()).toBe('1')
    expect(await upgrade(wrong)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^ERR_FDB_SUCCESSOR_EXITED/),
    })
    expect([leadsTo(), await answers()]).toEqual([one, '1'])
    expect(await upgrade(two)).toMatchObject({ code: 0, stderr: '' })
    expect(leadsTo()).toBe(two)
    await until('the new one alone answers', async () => (await run.status()).draining.length === 0)
    expect(await answers()).toBe('2')
    expect(await rollback()).toMatchObject({
      code: 5,
      stderr: expect.stringMatching(/^ERR_FDB_NO_STANDBY: .*rollback --at PATH/),
    })
    expect(await rollback(...at)).toMatchObject({ code: 0, stderr: '' })
    expect(leadsTo()).toBe(one)
    await until('the old one alone answers', async () => (await run.status()).draining.length === 0)
    expect(await answers()).toBe('1')
  })

  it('is given up when it does not serve within the time of the upgrade: the link and the version that serves stay one', async () => {
    const { answers, at, leadsTo, one, run, two } = await released(['--ready', 'fd', '--healthy-for', '10m'])
    expect(await run.upgrade(...at, '--binary', two, '--timeout', '1s')).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^ERR_FDB_DEADLINE: .*did not serve within 1000 ms .*--timeout/),
    })
    await until('nothing is left of it', async () => {
      const { draining, phase } = await run.status()
      return phase === 'idle' && draining.length === 0
    })
    expect([leadsTo(), await answers(), (await run.status()).generation]).toEqual([one, '1', 1])
  })

  it('is given up by rollback while it is to prove itself: the one that serves stays, and the link is put back', async () => {
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
