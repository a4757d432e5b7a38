import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { ROLLBACK } from '../../src/operator/service-commands.js'
import { NIGHTLY } from '../lanes/lane.js'
import { Follower } from '../processes/event-follower.js'
import { hasEnded } from '../processes/launch.js'
import { SERVER, Supervised } from '../processes/supervised.js'
import { pause, until } from '../processes/until.js'
import { wholeLines } from '../processes/whole-lines.js'

/** `fd-broker run` whose hooks append their event to a file. */
async function hooked(
  first = '0s',
  env: NodeJS.ProcessEnv = {},
  command: readonly string[] = [SERVER],
): Promise<{
  readonly run: Supervised
  /** Writes the file of settings, which each version and a reload read. */
  readonly configure: (settings: {
    probation: string
    success?: string
    failure?: string
    timeout?: string
  }) => void
  readonly ran: (count: number) => Promise<Record<string, unknown>[]>
  readonly lines: () => string[]
}> {
  const run = await Supervised.prepare()
  const file = join(run.sandbox.folder, 'hooks')
  const config = join(run.sandbox.folder, 'run.json')
  const hook = `echo "$FD_BROKER_EVENT" >> ${file}`
  const lines = () => wholeLines(file)
  const configure = ({
    probation,
    success = hook,
    failure = hook,
    timeout = '10s',
  }: Record<string, string>) =>
    writeFileSync(
      config,
      JSON.stringify({
        name: 'shop',
        listen: { web: `tcp://127.0.0.1:${run.port}` },
        ready: 'fd',
        restart: 'never',
        probation,
        hooks: { success, failure: failure.replaceAll('FILE', file), rollback: hook, timeout },
      }),
    )
  configure({ probation: first })
  await run.launch(['--config', config], command, env)
  await run.serving()
  const ran = (count: number) =>
    until(
      `${count} hooks have run`,
      () =>
        lines().length >= count ? lines().map(line => JSON.parse(line) as Record<string, unknown>) : null,
      20_000,
      () => `${lines().join('\n')}\n${run.output}`,
    )
  return { run, configure, ran, lines }
}

it.runIf(NIGHTLY)(
  'hooks of fd-broker run follow each success, failure and rollback, also those after a next release of run',
  async () => {
    const { run, configure, ran } = await hooked()
    await run.upgraded()
    expect(await ran(1)).toMatchObject([
      {
        hook: 'success',
        type: 'version.kept',
        service: 'shop',
        generation: 2,
        process: await run.serving(2),
      },
    ])
    expect((await run.upgrade('--', 'sh', '-c', 'exit 3')).code).toBe(1)
    expect((await ran(2)).at(-1)).toMatchObject({
      hook: 'failure',
      type: 'upgrade.failed',
      code: 'ERR_FDB_SUCCESSOR_EXITED',
    })
    configure({ probation: '60s' })
    await run.upgraded()
    expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
    await fetch(`${run.url}/crash`).catch(() => {})
    expect((await ran(3)).at(-1)).toMatchObject({
      hook: 'rollback',
      type: 'rollback.serving',
      generation: 5,
      process: await run.serving(5),
      code: 'ERR_FDB_SUCCESSOR_EXITED',
      reason: expect.stringContaining('in its probation'),
    })
    await run.upgraded()
    expect(await run.sandbox.run('rollback', '--control', run.control)).toMatchObject({ code: 0 })
    expect((await ran(4)).at(-1)).toMatchObject({
      hook: 'rollback',
      generation: 7,
      code: 'ERR_FDB_SUCCESSOR_LEFT',
      reason: expect.stringContaining('fd-broker rollback by uid'),
    })
  },
)

it('hooks of fd-broker run change by a reload, and run to their end before run itself ends', async () => {
  const { run, configure, lines } = await hooked()
  // With a time limit of which the end of run is independent.
  configure({ probation: '0s', failure: 'echo begun >> FILE; sleep 1; echo over >> FILE', timeout: '10m' })
  expect((await run.sandbox.run('reload', '--control', run.control)).stdout).toContain('hooks')
  expect((await run.upgrade('--', 'sh', '-c', 'exit 3')).code).toBe(1)
  await until('the hook runs', () => lines().includes('begun'))
  run.signal('SIGTERM')
  await until('run has ended', () => hasEnded(run.pid))
  expect(lines(), run.output).toEqual(['begun', 'over'])
})

it.each([
  ['is given up: it is kept then', true, { hook: 'success', type: 'version.kept', generation: 2 }],
  ['succeeds: it is never kept', false, { hook: 'rollback', type: 'rollback.serving', generation: 3 }],
])('the probation of a version does not end in a rollback, which %s', async (_how, givesUp, hook) => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-gate-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const gate = join(folder, 'gate')
  const waits = `while [ -e ${gate} ]; do sleep 0.05; done; exec ${SERVER}`
  const { run, configure, ran, lines } = await hooked('0s', {}, ['sh', '-c', waits])
  configure({ probation: '3s' })
  using operator = await OperatorClient.connect(run.control)
  expect(await run.upgrade('--', SERVER)).toMatchObject({ code: 0 })
  writeFileSync(gate, '')
  const returned = operator.command(ROLLBACK, '').catch(() => 'given up')
  await run.logged('the previous version was started again')
  using observer = await OperatorClient.connect(run.control)
  const left = async () => ((await observer.status()) as { probationSeconds: number | null }).probationSeconds
  await until('the time of the probation is over', async () => ((await left()) ?? 1) < 0.1)
  expect(lines(), run.output).toEqual([])
  if (givesUp) operator.close()
  else rmSync(gate)
  await returned
  expect(await ran(1)).toMatchObject([hook])
  await pause(300)
  expect(lines()).toHaveLength(1)
})

it.runIf(NIGHTLY).each([
  ['no version serves meanwhile', '0s', false],
  ['fd-broker run ends with it', '60s', true],
])('the hook of a failure runs also if %s', async (_when, first, ends) => {
  const { run, ran } = await hooked(first)
  const upgrading = run.upgrade('--', 'sh', '-c', 'sleep 1; exit 3')
  await run.logged('a version was started', line => line.version === 2)
  run.signal('SIGKILL', await run.serving(1))
  expect((await upgrading).code).not.toBe(0)
  expect(await ran(1)).toMatchObject([{ hook: 'failure', type: 'upgrade.failed' }])
  if (ends) await until('run has ended', () => hasEnded(run.pid))
})

it.runIf(NIGHTLY)('a second signal ends fd-broker run although a hook has not ended', async () => {
  const { run, configure, lines } = await hooked()
  configure({ probation: '0s', failure: 'echo begun >> FILE; sleep 20 & wait; echo over >> FILE' })
  expect((await run.sandbox.run('reload', '--control', run.control)).stdout).toContain('hooks')
  expect((await run.upgrade('--', 'sh', '-c', 'exit 3')).code).toBe(1)
  await until('the hook runs', () => lines().includes('begun'))
  run.signal('SIGTERM')
  await run.logged('a version has ended', line => line.version === 1)
  // A signal within 2 s of the first one is the same order.
  await pause(2_100)
  run.signal('SIGTERM')
  await until('run has ended', () => hasEnded(run.pid), 4_000)
  expect(lines(), run.output).toEqual(['begun'])
})

it.runIf(NIGHTLY)(
  'fd-broker run knows to the end a hook that begins while its next release is tried',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-slow-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const slow = join(folder, 'slow.cjs')
    writeFileSync(
      slow,
      `if (/^try:/.test(process.env.FD_BROKER_SUPERVISOR)) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2_500)`,
    )
    const { run, configure } = await hooked('0s', { NODE_OPTIONS: `--require ${slow}` })
    configure({ probation: '1s', success: 'sleep 3' })
    await run.upgraded()
    expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
    await run.logged('the supervisor runs the installed release')
    expect(run.output).toContain('a hook has ended')
  },
)

it.runIf(NIGHTLY)(
  'a hook that has ended in time counts so, also if fd-broker run was stopped meanwhile',
  async () => {
    const { run, configure, lines } = await hooked()
    configure({
      probation: '0s',
      failure: 'echo begun >> FILE; sleep 0.5; echo over >> FILE',
      timeout: '1s',
    })
    expect((await run.sandbox.run('reload', '--control', run.control)).stdout).toContain('hooks')
    expect((await run.upgrade('--', 'sh', '-c', 'exit 3')).code).toBe(1)
    await until('the hook runs', () => lines().includes('begun'))
    run.signal('SIGSTOP')
    await until('it is over', () => lines().includes('over'))
    await pause(1_000)
    run.signal('SIGCONT')
    await until('its end is in the log', () => /a hook has (?:ended|failed)/.test(run.output))
    expect(run.output).toContain('a hook has ended')
  },
)

it.runIf(NIGHTLY)(
  'a rollback for which two orders wait has its hook, also if the first is given up',
  async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-gate-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const gate = join(folder, 'gate')
    const waits = `while [ -e ${gate} ]; do sleep 0.05; done; exec ${SERVER}`
    const { run, ran } = await hooked('60s', {}, ['sh', '-c', waits])
    expect(await run.upgrade('--', SERVER)).toMatchObject({ code: 0 })
    writeFileSync(gate, '')
    const first = await OperatorClient.connect(run.control)
    const givenUp = first.command(ROLLBACK, '').catch(() => 'given up')
    await run.logged('the previous version was started again')
    using second = await OperatorClient.connect(run.control)
    const returned = second.command(ROLLBACK, '')
    await second.status()
    first.close()
    expect(await givenUp).toBe('given up')
    for (let looks = 0; looks < 3; looks++) await second.status()
    rmSync(gate)
    await returned
    expect(await ran(1)).toMatchObject([{ hook: 'rollback', code: 'ERR_FDB_SUCCESSOR_LEFT', generation: 3 }])
  },
)

it.runIf(NIGHTLY)(
  'a version that has returned, and is started again by the next release of run, is no rollback',
  async () => {
    const run = await Supervised.start([
      '--ready',
      'fd',
      '--restart',
      'always',
      '--restart-delay',
      '4s',
      '--probation',
      '60s',
    ])
    const follower = new Follower(run.control)
    await run.upgraded()
    for (const version of [3, 4]) {
      await fetch(`${run.url}/crash`).catch(() => {})
      if (version === 4) {
        await run.logged('no version runs any more; the next one starts after a delay')
        expect(await run.upgrade('--self')).toMatchObject({ code: 0 })
      }
      await run.serving(version)
    }
    const serving = () => follower.events.filter(({ type }) => /serving$/.test(type))
    await follower.has('the last one serves', () => serving().some(({ generation }) => generation === 4))
    expect(serving().map(({ type, generation }) => [type, generation])).toEqual([
      ['version.serving', 1],
      ['version.serving', 2],
      ['version.serving', 3],
      ['rollback.serving', 3],
      ['version.serving', 4],
    ])
  },
)
