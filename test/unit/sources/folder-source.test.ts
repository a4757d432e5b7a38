import { EventEmitter } from 'node:events'
import type * as files from 'node:fs/promises'
import { mkdir, mkdtemp, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { expect, it, onTestFinished, vi } from 'vitest'
import { FolderSource } from '../../../src/sources/folder-source.js'

/** Called before a file is read. */
const reading = vi.hoisted(() => ({ before: async (_name: string) => {} }))

// Node keeps the descriptor of its first watch; the source looks each interval too.
vi.mock('node:fs', async original => ({
  ...(await original<object>()),
  watch: () => Object.assign(new EventEmitter(), { close() {} }),
}))

vi.mock('node:fs/promises', async original => {
  const real = await original<typeof files>()
  const readFile = async (path: string) => {
    await reading.before(basename(path))
    return await real.readFile(path)
  }
  return { ...real, readFile }
})

async function folder() {
  const made = await mkdtemp(join(tmpdir(), 'fdb-folder-'))
  const ended = new AbortController()
  onTestFinished(async () => {
    ended.abort()
    reading.before = async () => {}
    await rm(made, { recursive: true })
  })
  const next = async () => {
    for await (const batch of new FolderSource({ folder: made, interval: 100 }).read(null, ended.signal))
      if ('all' in batch) return batch.all.map(({ key, value }) => `${key} ${value}`)
    return null
  }
  return { made, next }
}

/** Does this once, before the file is read. */
function beforeReading(file: string, act: () => Promise<void>): void {
  let done = false
  reading.before = async name => {
    if (name !== file || done) return
    done = true
    await act()
  }
}

it('is all of one version of a volume that Kubernetes swaps while it is read', async () => {
  const { made, next } = await folder()
  for (const version of ['1', '2']) {
    await mkdir(join(made, `..${version}`))
    for (const name of ['a', 'b']) await writeFile(join(made, `..${version}`, name), version)
  }
  await symlink('..1', join(made, '..data'))
  for (const name of ['a', 'b']) await symlink(`..data/${name}`, join(made, name))
  beforeReading('b', async () => {
    await symlink('..2', join(made, '..new'))
    await rename(join(made, '..new'), join(made, '..data'))
  })
  expect(await next()).toEqual(['a 2', 'b 2'])
})

it('leaves out a file that is removed while it is read', async () => {
  const { made, next } = await folder()
  for (const name of ['a', 'b']) await writeFile(join(made, name), '1')
  beforeReading('b', () => unlink(join(made, 'b')))
  expect(await next()).toEqual(['a 1'])
})
