import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { PROGRAMS, Supervised } from '../processes/supervised.js'

it('fd-broker run starts the next version also if it cannot tell its guardian of it', async () => {
  const run = await Supervised.start(['--ready', 'http:/health'], [join(PROGRAMS, 'plain.mjs')])
  const limit = (bytes: string) =>
    execFileSync('prlimit', ['--pid', `${run.pid}`, `--fsize=${bytes}:unlimited`])
  // A write to any file, also to one in memory, fails then.
  limit('0')
  const upgraded = await run.upgraded().then(
    () => 'done',
    error => error.code,
  )
  limit('unlimited')
  expect(upgraded).toBe('done')
  expect((await run.status()).generation).toBe(2)
})
