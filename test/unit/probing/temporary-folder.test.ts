import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { bindSocket, type OwnedFd } from '../../../src/kernel/index.js'
import { temporaryFolder } from '../../../src/probing/temporary-folder.js'

const MINUTES_AGO = new Date(Date.now() - 600_000)
let parent = ''
let before: string | undefined

beforeEach(() => {
  parent = mkdtempSync(join(tmpdir(), 'fdb-t-'))
  before = process.env.RUNTIME_DIRECTORY
  process.env.RUNTIME_DIRECTORY = parent
})

afterEach(() => {
  if (before === undefined) delete process.env.RUNTIME_DIRECTORY
  else process.env.RUNTIME_DIRECTORY = before
  rmSync(parent, { recursive: true, force: true })
})

function datagrams(folder: string): OwnedFd {
  mkdirSync(folder, { mode: 0o700 })
  return bindSocket(
    { kind: 'unix', host: join(folder, 'notify'), datagram: true, mode: 0o600 },
    'notify socket',
  )
}

function old(folder: string): void {
  utimesSync(folder, MINUTES_AGO, MINUTES_AGO)
}

it('a folder whose process was killed is removed by the next one; what lives, is young or is another’s stays', async () => {
  const [dead, alive, young, served, left, foreign] = [
    'dead00',
    'alive0',
    'young0',
    'served',
    'left00',
    'other0',
  ].map(name => join(parent, `fd-broker-${name}`)) as [string, string, string, string, string, string]
  datagrams(dead).close()
  using _living = datagrams(alive)
  datagrams(young).close()
  mkdirSync(served)
  const server = createServer().listen(join(served, 'socket'))
  await new Promise(resolve => server.once('listening', resolve))
  // A left stream socket, at which no process listens.
  mkdirSync(left)
  bindSocket({ kind: 'unix', host: join(left, 'socket'), mode: 0o600 }, 'socket').close()
  mkdirSync(foreign)
  writeFileSync(join(foreign, 'file'), '')
  for (const folder of [dead, alive, served, left, foreign]) old(folder)
  const made = temporaryFolder()
  expect(readdirSync(parent).sort()).toEqual(
    [made, alive, young, served, foreign].map(folder => folder.slice(parent.length + 1)).sort(),
  )
  expect(existsSync(join(alive, 'notify'))).toBe(true)
  await new Promise(resolve => server.close(resolve))
})
