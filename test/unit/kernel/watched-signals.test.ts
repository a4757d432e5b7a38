import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { expect, it, onTestFinished } from 'vitest'
import { type SignalWatch, watchSignal } from '../../../src/kernel/index.js'
import fc from '../../lanes/generated.js'
import { perLane } from '../../lanes/lane.js'
import { bundled } from '../../processes/bundled.js'
import { until } from '../../processes/until.js'

function send(): void {
  process.kill(process.pid, 'SIGUSR2')
}

it('a signal that has just arrived when its last watch closes has its default action', () => {
  const { file, env } = bundled('host-watched-signal.ts')
  const { signal, stdout } = spawnSync(process.execPath, [file], { env, encoding: 'utf8' })
  expect([stdout, signal]).toEqual(['closes\n', 'SIGTERM'])
})

it('a signal that has just arrived when its last watch closes reaches the listeners of the program', async () => {
  const came = once(process, 'SIGUSR2')
  const watch = watchSignal('SIGUSR2', () => expect.unreachable())
  send()
  watch.close()
  await came
})

it('the newest watch of a signal gets it, also if it has arrived while an older watch was the only one', async () => {
  const got: string[] = []
  const older = watchSignal('SIGUSR2', () => got.push('older'))
  send()
  const newer = await new Promise<Disposable>(resolve => {
    const watch = watchSignal('SIGUSR2', () => {
      got.push('newer')
      resolve({ [Symbol.dispose]: () => watch.close() })
    })
    older.close()
  })
  onTestFinished(() => newer[Symbol.dispose]())
  expect(got).toEqual(['newer'])
})

type Step = 'open' | 'send' | { readonly close: number }

const STEP: fc.Arbitrary<Step> = fc.oneof(
  fc.constantFrom('open' as const, 'send' as const),
  fc.record({ close: fc.nat(2) }),
)

it('a signal reaches the newest of its open watches, then the program, however often it was watched', async () => {
  const property = fc.asyncProperty(fc.array(STEP, { minLength: 4, maxLength: 24 }), async steps => {
    const got: string[] = []
    const program = () => got.push('program')
    process.on('SIGUSR2', program)
    const open: { readonly name: string; readonly watch: SignalWatch }[] = []
    const expected: string[] = []
    for (const [i, step] of steps.entries())
      if (step === 'open') {
        const name = `watch ${i}`
        open.push({ name, watch: watchSignal('SIGUSR2', () => got.push(name)) })
      } else if (step === 'send') {
        const newest = open.at(-1)
        if (newest !== undefined) expected.push(newest.name)
        expected.push('program')
        send()
        await until(
          'it is heard',
          () => got.length >= expected.length,
          1_000,
          () => got,
        )
      } else open.splice(step.close, 1)[0]?.watch.close()
    for (const { watch } of open) watch.close()
    process.off('SIGUSR2', program)
    expect(got).toEqual(expected)
  })
  const again: Step[] = ['open', { close: 0 }, 'open', 'send', { close: 0 }, 'send']
  const older: Step[] = ['open', 'open', 'open', { close: 1 }, 'send', { close: 1 }, 'send']
  await fc.assert(property, { numRuns: perLane(10, 200), examples: [[again], [older]] })
})
