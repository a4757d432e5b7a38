import { execFile } from 'node:child_process'
import { realpathSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { describe, expect, it } from 'vitest'
import { native } from '../../src/kernel/native.js'
import { CLOEXEC, descriptors, flagsOf, folders, thrown } from './support.js'

const script = fileURLToPath(new URL('children/execute.mjs', import.meta.url))
const fromThree = fileURLToPath(new URL('children/execute-from-three.mjs', import.meta.url))
const keep = descriptors()
const folder = folders()

function bytes(...texts: string[]): Buffer {
  return Buffer.from(texts.map(text => `${text}\0`).join(''))
}

describe('execute', () => {
  it('goes on as another program: the same process, with the descriptors that were named, by their numbers', async () => {
    const where = await folder()
    const { stdout } = await promisify(execFile)(process.execPath, [script, where])
    const [own, said, ...open] = stdout.trim().split('\n')
    expect(said).toBe(`${own} ${process.pid} own words ${realpathSync(where)}`)
    expect(open).toEqual(['0', '1'])
  })

  it('gives descriptors from a number on, whatever had that before, and usual signals', async () => {
    const { stdout } = await promisify(execFile)(process.execPath, [fromThree])
    const [sent, got, open, blocked, ignored, flags] = stdout.trim().split('\n')
    expect(got).toBe(sent)
    expect(open).toBe('0, 1, 2, 3, 4')
    expect([blocked, ignored]).toEqual([expect.stringMatching(/:\s0+$/), expect.stringMatching(/:\s0+$/)])
    // O_NONBLOCK of the pipe.
    expect(Number.parseInt(flags!.split(/\s/)[1]!, 8) & 0o4000).toBe(0)
  })

  it('leaves all as it is when that cannot be started', async () => {
    const [kept] = keep(native.socketPair())
    const before = process.cwd()
    const failed = (file: string, cwd: string, ...first: number[]) => {
      const error = thrown(() => native.execute(bytes(file, cwd, 'a'), bytes('A=b'), [kept!], ...first))
      expect(flagsOf(kept!) & CLOEXEC).toBe(CLOEXEC)
      expect(realpathSync('/proc/self/cwd')).toBe(before)
      return `${error.code} ${error.syscall}`
    }
    const where = await folder()
    expect(failed(join(where, 'none'), where)).toBe('ENOENT execve')
    expect(failed(where, '')).toBe('EACCES execve')
    expect(failed(join(where, 'none'), where, 3)).toBe('ENOENT execve')
    expect(failed('/bin/sh', join(where, 'none'))).toBe('ENOENT chdir')
  })

  it('refuses what is no list of words, and what is no descriptor', () => {
    const refused = (...args: unknown[]) =>
      thrown(() => native.execute(...(args as Parameters<typeof native.execute>))).name
    expect(refused('sh', bytes('A=b'), [])).toBe('TypeError')
    expect(refused(bytes('sh'), bytes('A=b'), [])).toBe('RangeError')
    expect(refused(Buffer.from('/bin/sh'), bytes('A=b'), [])).toBe('RangeError')
    expect(refused(bytes('/bin/sh', '', 'sh'), bytes('A=b'), [-1])).toMatch(/Error$/)
    expect(refused(bytes('/bin/sh', '', 'sh'), bytes('A=b'), [], 2)).toBe('RangeError')
  })
})
