import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, it, onTestFinished, vi } from 'vitest'
import { addKeep, Command } from '../../fixtures/cli.js'
import { askedService } from '../../processes/asked-service.js'
import { until } from '../../processes/until.js'

/** The calls of the command, in their order. */
const acts = vi.hoisted(() => ({ story: [] as string[], hold: () => {} }))
vi.mock(import('../../../src/kernel/index.js'), async original => ({
  ...(await original()),
  addonFile: () => '/addon.node',
  executeInstead: () => {
    acts.story.push('executes')
    throw new Error('the test has no other program')
  },
  holdSignals: () => acts.hold(),
  releaseSignals: () => false,
  // The children of this process are Node's.
  adoptOrphans: () => false,
  endedChild: () => 0,
  trySignalTo: (_pidfd, signal) => {
    acts.story.push(`passes ${signal} on`)
    return true
  },
}))

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

it('fd-broker keep stays in Node as long as it asks to which process a signal belongs now', async () => {
  const { control, questions } = await askedService()
  const served = spawn('sleep', ['600'], { stdio: 'ignore' })
  await once(served, 'spawn')
  onTestFinished(() => void served.kill('SIGKILL'))
  const before = SIGNALS.map(signal => process.listeners(signal))
  onTestFinished(() =>
    SIGNALS.forEach((signal, at) => {
      for (const listener of process.listeners(signal))
        if (!before[at]!.includes(listener)) process.off(signal, listener)
    }),
  )
  vi.stubEnv('FD_BROKER_WAITED', `${served.pid}`)
  onTestFinished(() => void vi.unstubAllEnvs())
  const exited = new Promise<void>(resolve =>
    vi.spyOn(process, 'exit').mockImplementation((): never => resolve() as never),
  )
  onTestFinished(() => void vi.restoreAllMocks())
  // A signal arrives just before the command blocks signals.
  acts.hold = () => {
    acts.hold = () => {}
    setImmediate(() => process.listeners('SIGTERM').at(-1)!('SIGTERM'))
  }
  const program = new Command()
  addKeep(program)
  const kept = program.parseAsync(['node', 'fd-broker', 'keep', '--control', control])
  let answered = 0
  const answer = (pid: number) => {
    for (const each of questions.slice(answered)) each({ pid })
    answered = questions.length
  }
  await until('it asks which process serves', () => questions.length === 1)
  answer(served.pid!)
  await until(
    'it asks again, for the signal and for itself',
    () => acts.story.length > 1 || questions.length === 3,
  )
  expect(acts.story).toEqual(['passes 15 on'])
  answer(served.pid!)
  await until('it waits without Node', () => acts.story.length === 2)
  expect(acts.story).toEqual(['passes 15 on', 'executes'])
  served.kill('SIGKILL')
  await until('it asks once more', () => questions.length > answered)
  answer(process.pid)
  await exited
  await kept
})
