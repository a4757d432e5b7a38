import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { expect, it, onTestFinished } from 'vitest'
import { watchSignal } from '../../../src/kernel/index.js'
import { bundled } from '../../processes/bundled.js'

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
