import { mkdirSync, renameSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { native, READABLE } from '../../src/kernel/native.js'
import { descriptors, folders, thrown } from './support.js'

const keep = descriptors()
const folder = folders()

/** Resolves when the descriptor is readable. */
function readable(fd: number): Promise<void> {
  return new Promise(resolve => {
    const poll = native.createPoll(fd, () => {
      poll.close()
      resolve()
    })
    poll.start(READABLE)
  })
}

describe('paths that are watched', () => {
  it.each([
    ['a file is removed', (dir: string) => unlinkSync(join(dir, 'file'))],
    ['another file takes its name', (dir: string) => renameSync(join(dir, 'other'), join(dir, 'file'))],
    ['the file gets another name', (dir: string) => renameSync(join(dir, 'file'), join(dir, 'moved'))],
    ['the folder gets another name', (dir: string) => renameSync(dir, `${dir}-moved`)],
  ])('tell when %s', async (_what, act) => {
    const dir = join(await folder(), 'dir')
    mkdirSync(dir)
    for (const name of ['file', 'other']) writeFileSync(join(dir, name), '')
    const fd = keep(native.watchPaths(dir, [join(dir, 'none'), join(dir, 'file')])!)
    const told = readable(fd)
    act(dir)
    await told
  })

  it('say nothing of other files in the folder', async () => {
    const dir = await folder()
    writeFileSync(join(dir, 'file'), '')
    const fd = keep(native.watchPaths(dir, [join(dir, 'file')])!)
    for (const name of ['a', 'b']) writeFileSync(join(dir, name), 'text')
    unlinkSync(join(dir, 'a'))
    let told = false
    const first = readable(fd).then(() => {
      told = true
    })
    await new Promise(resolve => setImmediate(resolve))
    await new Promise(resolve => setImmediate(resolve))
    expect(told).toBe(false)
    unlinkSync(join(dir, 'file'))
    await first
  })

  it('must be texts', async () => {
    const dir = await folder()
    const call = native.watchPaths as (...args: unknown[]) => unknown
    expect(thrown(() => call(1, []))).toBeInstanceOf(TypeError)
    expect(thrown(() => call(dir, 'x'))).toBeInstanceOf(TypeError)
    expect(thrown(() => call(dir, [1]))).toBeInstanceOf(TypeError)
    expect(keep(call('/'.padEnd(5000, 'x'), []) as number)).toBeGreaterThan(0)
  })
})
