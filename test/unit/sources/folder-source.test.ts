import { EventEmitter } from 'node:events'
import fs from 'node:fs'
import { mkdir, mkdtemp, rename, rm, symlink, truncate, unlink, writeFile } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { FolderSource } from 'fd-broker/sources'
import { expect, it, onTestFinished, vi } from 'vitest'

async function folder() {
  const made = await mkdtemp(join(tmpdir(), 'fdb-folder-'))
  const ended = new AbortController()
  onTestFinished(async () => {
    ended.abort()
    await rm(made, { recursive: true })
  })
  const next = async () => {
    for await (const batch of new FolderSource({ folder: made, interval: 100 }).read(null, ended.signal))
      if ('all' in batch) return batch.all.map(({ key, value }) => `${key} ${value}`)
    return null
  }
  return { made, next }
}

/** Node keeps the descriptor of its first watch. The source looks at intervals too. */
class NoWatch extends EventEmitter {
  close(): void {}
  ref(): this {
    return this
  }
  unref(): this {
    return this
  }
}

/** Calls `act` once, before the file is read. */
function beforeReading(file: string, act: () => Promise<void>): void {
  let done = false
  const { readFile } = fs.promises
  const reading = vi.spyOn(fs.promises, 'readFile').mockImplementation(async path => {
    if (basename(String(path)) === file && !done) {
      done = true
      await act()
    }
    return await readFile(path)
  })
  const watching = vi.spyOn(fs, 'watch').mockImplementation(() => new NoWatch())
  syncBuiltinESMExports()
  onTestFinished(() => {
    reading.mockRestore()
    watching.mockRestore()
    syncBuiltinESMExports()
  })
}

it('gives the files of one version of a volume that Kubernetes swaps while it is read', async () => {
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

it('a relative folder stays the same when the program changes its own', async () => {
  const { made } = await folder()
  await writeFile(join(made, 'apple'), '1')
  const before = process.cwd()
  onTestFinished(() => process.chdir(before))
  process.chdir(dirname(made))
  const source = new FolderSource({ folder: basename(made) })
  process.chdir('/')
  const batches = source.read(null, AbortSignal.timeout(5_000))[Symbol.asyncIterator]()
  const { value } = await batches.next()
  expect(value).toMatchObject({ all: [{ key: 'apple' }] })
})

it('fails if it cannot tell whether a file is there, so that its entry is kept', async () => {
  const { made, next } = await folder()
  await writeFile(join(made, 'a'), '1')
  await symlink('b', join(made, 'b'))
  await expect(next()).rejects.toThrow(
    `ELOOP: too many symbolic links encountered, stat '${join(made, 'b')}'`,
  )
})

it('reads no more of a large file than tells that it is too large', async () => {
  const { made } = await folder()
  await writeFile(join(made, 'a'), '1')
  await writeFile(join(made, 'b'), '')
  await truncate(join(made, 'b'), 3 * 2 ** 30)
  const { signal } = new AbortController()
  const { value } = await new FolderSource({ folder: made }).read(null, signal).next()
  expect(value).toMatchObject({ all: [{ value: { length: 1 } }, { value: { length: 4 * 2 ** 20 + 1 } }] })
})
