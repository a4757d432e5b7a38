import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, it, onTestFinished } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { hasEnded } from '../../processes/launch.js'
import { until } from '../../processes/until.js'
import { attemptWith, OTHER } from '../../processes/upgrade-attempts.js'

describe('an attempt', () => {
  it('goes on if a process fails that another command has started', async () => {
    const { attempt, child, fails, outcome, serves, told } = await attemptWith()
    fails(OTHER)
    expect(attempt.failureOfAnother?.message).toBe('its check failed')
    expect(attempt.missingStep).toBeNull()
    serves(child.pid)
    expect(await outcome).toEqual({ pid: child.pid, generation: 2 })
    expect(told).toEqual(['started', 'serving'])
  })

  it.each<[string, (pid: number, lastWords: string) => typeof OTHER | null]>([
    ['is in the session of its command', pid => ({ ...OTHER, session: pid })],
    ['descends from its command', pid => ({ ...OTHER, ancestors: new Set([1_000_001, pid, 1]) })],
    ['has inherited its environment', (_pid, lastWords) => ({ ...OTHER, lastWords })],
    ['may have inherited its environment', () => ({ ...OTHER, lastWords: undefined })],
    ['is not visible', () => ({ ...OTHER, session: undefined })],
    ['is unknown', () => null],
  ])('fails with a process that %s', async (_which, lineageWith) => {
    const { child, fails, outcome } = await attemptWith()
    fails(OTHER, 'that of another')
    fails(lineageWith(child.pid, child.exitReason.mark.value))
    expect(await outcome).toMatchObject({
      code: 'ERR_FDB_CHECK',
      message: expect.stringContaining('its check failed'),
    })
  })

  it('does not take a new segment of the state for a step of its successor, and still hears that its command has failed', async () => {
    const { enters, outcome, told } = await attemptWith(['true'])
    for (const phase of ['returning', 'idle', 'returning']) enters(phase)
    expect(await outcome).toMatchObject({ code: 'ERR_FDB_SUCCESSOR_EXITED' })
    expect(told).toEqual(['started'])
  })

  it('reports the return of its incumbent after a failed handoff', async () => {
    const { enters, told } = await attemptWith()
    for (const phase of ['offering', 'committing', 'returning', 'idle']) enters(phase)
    expect(told).toEqual(['started', 'offering', 'committing', 'returning', 'idle'])
  })

  it('goes on if a process fails that an earlier upgrade has started', async () => {
    const { attempt, control, fails } = await attemptWith()
    fails({ ...OTHER, lastWords: `${control}.0123456789abcdef` })
    expect(attempt.failureOfAnother).not.toBeNull()
  })

  it.each([
    ['while its command', ['sleep', '0.2']],
    ['after its command', ['true']],
  ])('fails with a process that a service manager has started, if it fails %s runs', async (when, argv) => {
    const { child, fails, outcome } = await attemptWith(argv)
    if (when === 'after its command') await child.exited
    fails(OTHER)
    expect(await outcome).toMatchObject({
      code: 'ERR_FDB_CHECK',
      message: expect.stringContaining('its check failed'),
    })
  })

  it('names the failure of another process if its own command fails', async () => {
    const { fails, outcome } = await attemptWith(['sh', '-c', 'sleep 0.2; exit 3'])
    fails(OTHER)
    expect(await outcome).toMatchObject({
      code: 'ERR_FDB_SUCCESSOR_EXITED',
      message: expect.stringMatching(
        /ended with code 3 before it served: see its own output; a process that .* has started failed meanwhile: its check failed; process 1 serves on$/,
      ),
    })
  })

  it('says what makes Node end by SIGABRT before a program can report anything', async () => {
    const { outcome } = await attemptWith(['sh', '-c', 'kill -ABRT $$'])
    expect(await outcome).toMatchObject({
      code: 'ERR_FDB_SUCCESSOR_EXITED',
      message: expect.stringMatching(
        /ended by SIGABRT before it served: see its own output; Node aborts where it cannot start a thread \(see pids\.max, /,
      ),
    })
  })

  it.each([
    ['fails', 3, { code: 'ERR_FDB_BUSY', message: expect.stringContaining('ended with code 3') }],
    ['succeeds', 0, { generation: 2 }],
  ])(
    '%s with the exit of its command, of which it has not heard when another process serves',
    async (_how, code, answer) => {
      const other = spawn('sleep', ['60'], { stdio: 'ignore', detached: true })
      onTestFinished(() => void other.kill('SIGKILL'))
      await once(other, 'spawn')
      const { child, outcome, serves } = await attemptWith(['sh', '-c', `exit ${code}`])
      // This process is busy, or was stopped: it hears of both in one turn.
      while (!hasEnded(child.pid)) execFileSync('sleep', ['0.01'])
      serves(other.pid!)
      expect(await outcome).toMatchObject(answer)
    },
  )

  it('ends its failed successor, unless that has joined once more and serves', async () => {
    const failed = await attemptWith(['sleep', '60'], 50)
    failed.fails(null)
    await failed.outcome
    await until('it is ended', () => hasEnded(failed.child.pid))

    const { child, fails, outcome, serves } = await attemptWith(['sleep', '60'], 50)
    fails(null)
    await outcome
    serves(child.pid)
    // The end of a process that failed at the same time shows that the time has passed.
    const later = await attemptWith(['sleep', '60'], 50)
    later.fails(null)
    await later.outcome
    await until('the later one is ended', () => hasEnded(later.child.pid))
    expect(hasEnded(child.pid)).toBe(false)
  })

  it('waits for the end of its successor if a daemon reports that the handoff broke, and names it', async () => {
    const { cancel, outcome } = await attemptWith(['sh', '-c', 'sleep 0.3; exit 7'])
    cancel(new FdbError('ERR_FDB_SUCCESSOR_LOST', 'process 4711 closed its channel', { phase: 'offering' }))
    const why = 'process 4711 closed its channel; it ended with code 7 (phase offering; process 1 serves on)'
    expect(await outcome).toMatchObject({ code: 'ERR_FDB_SUCCESSOR_LOST', message: why })
  })
})
