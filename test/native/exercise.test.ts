import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'

describe('the addon', () => {
  it('has no call that the exercise leaves out, which is made on every platform and for memory errors', () => {
    const script = fileURLToPath(new URL('exercise.mjs', import.meta.url))
    expect(execFileSync(process.execPath, ['--expose-gc', script], { encoding: 'utf8' })).toBe('exercised\n')
  })
})
