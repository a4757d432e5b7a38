import { existsSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY } from '../lanes/lane.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { released } from '../processes/released.js'
import { until } from '../processes/until.js'

const READY = ['--ready', 'fd'] as const

async function ended(pid: number): Promise<void> {
  await until(`client ${pid} has ended`, () => hasEnded(pid))
}

describe('the link of a release and the version that serves, under fd-broker run', () => {
  it('stay one when the client is killed and the next version comes to serve', async () => {
    const { client, held, leadsTo, open, settled, started, at, rollback, one } = await released(READY)
    const later = held('later')
    const pid = await client(later)
    await started(2)
    signalPid(pid, 'SIGKILL')
    await ended(pid)
    open()
    await until('the later release answers', async () => (await settled()) === 'later')
    expect(leadsTo()).toBe(later)
    expect(await rollback(...at)).toMatchObject({ code: 0, stderr: '' })
    expect([await settled(), leadsTo()]).toEqual(['1', one])
  })

  it.runIf(NIGHTLY)('stay one when the client is killed and the next version fails', async () => {
    const { client, held, leadsTo, one, settled, started } = await released(READY)
    const pid = await client(held('later'))
    const version = await started(2)
    signalPid(pid, 'SIGKILL')
    await ended(pid)
    signalPid(version, 'SIGKILL')
    await ended(version)
    expect([await settled(), leadsTo()]).toEqual(['1', one])
  })

  it.runIf(NIGHTLY)('stay one when a client gives up a version that HUP has asked for too', async () => {
    const { client, held, leadsTo, link, open, run, settled, started } = await released(READY)
    const [first, second] = [held('first'), held('second')]
    await client(first)
    const version = await started(2)
    using operator = await OperatorClient.connect(run.control)
    const cancel = new AbortController()
    const release = { at: link, to: second }
    const upgraded = operator
      .upgrade({ timeoutMs: 60_000, release, signal: cancel.signal })
      .catch((error: unknown) => error)
    // The answer comes after the request was read.
    await operator.status()
    run.signal('SIGHUP')
    // The supervisor has taken the signal when it answers a request of a later turn.
    for (let turn = 0; turn < 2; turn++) await operator.status()
    signalPid(version, 'SIGKILL')
    await started(3)
    cancel.abort()
    expect(await upgraded).toMatchObject({ code: 'ERR_FDB_ABORTED' })
    open()
    await until('the second release answers', async () => (await settled()) === 'second')
    expect(leadsTo()).toBe(second)
  })

  it('stay one when the version ends in its probation: the one before serves again, and can be upgraded from', async () => {
    const { leadsTo, link, one, run, settled, two, upgrade } = await released([
      ...READY,
      '--probation',
      '10m',
    ])
    expect(await upgrade(two)).toMatchObject({ code: 0, stderr: '' })
    expect([await settled(), leadsTo()]).toEqual(['2', two])
    await fetch(`${run.url}/crash`).catch(() => {})
    await run.logged('a version serves', line => line.version === 3)
    expect([await settled(), leadsTo(), existsSync(`${link}.previous`)]).toEqual(['1', one, false])
    expect(await upgrade(two)).toMatchObject({ code: 0, stderr: '' })
    expect([await settled(), leadsTo()]).toEqual(['2', two])
  })

  it('stay one when the service stops while a release is to prove itself', async () => {
    const { client, leadsTo, one, run, two } = await released([...READY, '--healthy-for', '10m'])
    await client(two)
    await until('it is on trial', async () => (await run.status()).phase === 'trial')
    expect(leadsTo()).toBe(two)
    run.signal('SIGTERM')
    await run.ended()
    expect(leadsTo()).toBe(one)
  })

  it.runIf(NIGHTLY)(
    'stay one when what is to be led is no link: the upgrade is refused with the reason',
    async () => {
      const { leadsTo, one, run, settled, two } = await released(READY)
      using operator = await OperatorClient.connect(run.control)
      const release = { at: one, to: two }
      await expect(operator.upgrade({ timeoutMs: 60_000, release })).rejects.toMatchObject({
        code: 'ERR_FDB_NO_BINARY',
        message: expect.stringMatching(/no symbolic link/),
      })
      expect([await settled(), leadsTo()]).toEqual(['1', one])
    },
  )

  it.runIf(NIGHTLY)(
    'stay one when rollback --at is asked for and another program has led the link: the release that was kept is upgraded to',
    async () => {
      const { at, elsewhere, leadsTo, one, rollback, run, settled, two, upgrade, held, open } =
        await released(READY)
      expect(await upgrade(two)).toMatchObject({ code: 0, stderr: '' })
      const third = held('third')
      open()
      elsewhere(third)
      await run.upgraded()
      expect([await settled(), leadsTo()]).toEqual(['third', third])
      expect(await rollback(...at)).toMatchObject({ code: 0, stderr: '' })
      expect([await settled(), leadsTo()]).toEqual(['1', one])
    },
  )

  it.runIf(NIGHTLY)('stay another program’s if that leads the link elsewhere', async () => {
    const { elsewhere, leadsTo, run, settled, two, upgrade, wrong } = await released([
      ...READY,
      '--probation',
      '10m',
    ])
    expect(await upgrade(two)).toMatchObject({ code: 0, stderr: '' })
    // The previous version accepts too until it ends.
    await run.logged('a version has ended', line => line.version === 1)
    elsewhere(wrong)
    await fetch(`${run.url}/crash`).catch(() => {})
    await run.logged('a version serves', line => line.version === 3)
    expect([await settled(), leadsTo()]).toEqual(['1', wrong])
  })
})
