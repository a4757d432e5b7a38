import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { NIGHTLY } from '../lanes/lane.js'
import { hasEnded } from '../processes/launch.js'
import { freePort } from '../processes/scene.js'
import { type Orders, SERVER, Supervised } from '../processes/supervised.js'
import { until } from '../processes/until.js'

/** The command of a version with these orders. */
const given = (run: Supervised, orders: Orders) => ['env', `FDB_SUPERVISED=${run.orders(orders)}`, SERVER]
/** All processes of this program that have listened. */
const listened = (run: Supervised) =>
  [...readFileSync(run.said, 'utf8').matchAll(/^(\d+) listens$/gm)].map(([, pid]) => Number(pid))

function childOf(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim())
}

/** The pids that answer so many requests. */
async function answering(run: Supervised, requests = 40): Promise<Set<number>> {
  const pids = new Set<number>()
  for (let n = 0; n < requests; n++) pids.add((await run.whoami()).pid)
  return pids
}

describe('processes that a version leaves behind', () => {
  it.runIf(NIGHTLY)(
    'end when it fails: no other version answers, and the failure says which they were',
    async () => {
      const run = await Supervised.start(['--ready', 'fd'])
      const { pid } = await run.whoami()
      const behind = 'before it served and left 1 processes behind'
      const background = 'a program that daemonizes cannot be supervised'
      for (const [leaves, said] of [
        [{ code: 1, child: { fail: true } }, `with code 1 ${behind}`],
        [{ code: 0, detached: true, child: { fail: true } }, background],
        [{ code: 1, child: { deaf: true, fail: true } }, `with code 1 ${behind}`],
      ] as const) {
        const before = new Set(listened(run))
        const { code, stderr } = await run.upgrade('--', ...given(run, { leaves }))
        expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining(said) })
        const stray = listened(run).find(one => !before.has(one))!
        expect(stderr).toContain(`${stray}`)
        await run.ended(stray)
        expect(await answering(run)).toEqual(new Set([pid]))
        await until('the status has no rest', async () => (await run.status()).draining.length === 0)
      }
    },
  )

  it('end too when they have left the group, the session and the environment of their version, and no other process does', async () => {
    const run = await Supervised.start(['--ready', 'fd'], ['sh', '-c', `env -i sleep 60 & exec ${SERVER}`])
    const { pid } = await run.whoami()
    const helper = childOf(pid)
    const leaves = { code: 0, detached: true, clean: true, child: { fail: true } }
    const { code, stderr } = await run.upgrade('--', ...given(run, { leaves }))
    const stray = listened(run).at(-1)!
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringContaining(`left 1 processes behind (${stray})`),
    })
    expect([hasEnded(stray), hasEnded(helper)]).toEqual([true, false])
    expect(await answering(run)).toEqual(new Set([pid]))
    expect(await run.sandbox.run('stop', '--control', run.control)).toMatchObject({ code: 0 })
    await run.ended(helper)
  })

  it.runIf(NIGHTLY)(
    'stand in the status, and die within the stop time of a version that was replaced',
    async () => {
      const run = await Supervised.prepare()
      const leaves = { code: null, child: { deaf: true, fail: true } }
      await run.launch(['--ready', 'fd', '--stop-timeout', '6s'], given(run, { leaves }))
      await run.serving()
      const [child] = listened(run)
      expect(await run.upgrade('--', SERVER)).toMatchObject({ code: 0 })
      await until('the status names it', async () =>
        (await run.status()).draining.some(
          ({ generation, pid, phase }: Record<string, unknown>) =>
            generation === 1 && pid === child && phase === 'left behind',
        ),
      )
      await run.ended(child)
      await until('the status has no rest', async () => (await run.status()).draining.length === 0)
    },
  )

  it('end by stop, and when a version that served dies', async () => {
    const run = await Supervised.prepare()
    // The main process serves on, beside its child.
    await run.launch(
      ['--ready', 'fd', '--restart', 'always'],
      given(run, { leaves: { code: null, child: { fail: true } } }),
    )
    await run.serving()
    // A program says that it listens after it has reported that it is ready.
    await until('both say that they listen', () => listened(run).length === 2)
    const [child, main] = listened(run)
    process.kill(main!, 'SIGKILL')
    await run.ended(child)
    await run.serving(2)
    await until('those of the second version do too', () => listened(run).length === 4)
    const [, , secondChild] = listened(run)
    expect(hasEnded(secondChild!)).toBe(false)
    expect(await run.sandbox.run('stop', '--control', run.control)).toMatchObject({ code: 0 })
    expect(listened(run).map(hasEnded)).toEqual([true, true, true, true])
  })
})

/** A program below a shell, which neither gives it the listeners nor passes signals on. */
async function belowShell(how: string) {
  const run = await Supervised.prepare()
  const port = await freePort()
  const env = { FDB_SUPERVISED: run.orders({ listen: { host: '127.0.0.1', port }, elsewhere: true }) }
  const command = ['sh', '-c', `unset LISTEN_FDS LISTEN_PID; ${how}; true`, SERVER]
  const start = async (args: readonly string[] = []) => {
    await run.launch(['--ready', `tcp://127.0.0.1:${port}`, ...args], command, env)
    await run.logged('a version serves', ({ pid }) => pid === run.pid)
    return listened(run).at(-1)!
  }
  return { run, start }
}

describe('when the supervisor is killed', () => {
  it.each([
    ['below a shell', '"$0"'],
    ['in a session of its own', 'setsid -f "$0"; sleep 1000'],
  ])('a program %s ends too, and the next supervisor can start it', async (_, how) => {
    const { run, start } = await belowShell(how)
    const first = await start()
    run.signal('SIGKILL')
    await run.ended(first)
    const second = await start()
    expect(second).not.toBe(first)
    expect(await run.sandbox.run('stop', '--control', run.control)).toMatchObject({ code: 0 })
    await run.ended(second)
  })

  it('after it has replaced itself, its program has lived on and ends then', async () => {
    const { run, start } = await belowShell('"$0"')
    const pid = await start()
    expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
    await until('the next image runs', async () => (await run.status()).supervisor.replaced === 1)
    expect(hasEnded(pid)).toBe(false)
    run.signal('SIGKILL')
    await run.ended(pid)
  })

  it('a program that may outlive it lives on', async () => {
    const { run, start } = await belowShell('"$0"')
    const pid = await start(['--survive'])
    run.signal('SIGKILL')
    await run.ended()
    const other = await belowShell('"$0"')
    const others = await other.start()
    other.run.signal('SIGKILL')
    await other.run.ended(others)
    expect(hasEnded(pid)).toBe(false)
    process.kill(pid, 'SIGKILL')
  })
})
