import { once } from 'node:events'
import { lstatSync, mkdtempSync, readdirSync, renameSync as rename, rmSync } from 'node:fs'
import { createConnection } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { bindSocket, namesSocket, type OwnedFd } from '../../../src/kernel/index.js'
import { parseListenerSpec } from '../../../src/listeners/index.js'
import { removeUnixPath, replaceStale } from '../../../src/listeners/unix-path.js'

/** An action of another program in the moment before a path is renamed. */
const meanwhile = vi.hoisted(() => ({ once: undefined as (() => void) | undefined }))

vi.mock('node:fs', async original => {
  const fs = await original<typeof import('node:fs')>()
  const renameSync: typeof fs.renameSync = (from, to) => {
    const other = meanwhile.once
    meanwhile.once = undefined
    other?.()
    fs.renameSync(from, to)
  }
  return { ...fs, renameSync }
})

let folder: string
let path: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fdb-replaced-'))
  path = join(folder, 'socket')
  const made = folder
  onTestFinished(() => rmSync(made, { recursive: true, force: true }))
})

function listen(at: string): OwnedFd {
  const fd = bindSocket({ kind: 'unix', host: at, backlog: 8 }, 'listener')
  onTestFinished(() => fd.close())
  return fd
}

/** Another program's live listener takes the path, as one without our lock does. */
function taken(): void {
  meanwhile.once = () => {
    listen(join(folder, 'other'))
    rename(join(folder, 'other'), path)
  }
}

async function answers(): Promise<void> {
  expect(lstatSync(path).isSocket()).toBe(true)
  const client = createConnection(path)
  await once(client, 'connect')
  client.destroy()
  expect(readdirSync(folder)).toEqual(['socket'])
}

describe('a live socket that another program has put at the path in the last moment', () => {
  it('stays there when the stale one before it was to be replaced, and nothing is bound', async () => {
    listen(path).close()
    taken()
    let bound = false
    const result = replaceStale(path, () => {
      bound = true
      return listen(path)
    })
    expect([result, bound]).toEqual([{ occupant: null }, false])
    await answers()
  })

  it('stays there when the path of our listener was to be removed', async ({ skip }) => {
    const own = listen(path)
    if (namesSocket(own, path) === null) skip('the kernel does not say which socket a path names')
    taken()
    expect(removeUnixPath(own, parseListenerSpec(`unix:${path}`))).toBe(false)
    await answers()
  })
})
