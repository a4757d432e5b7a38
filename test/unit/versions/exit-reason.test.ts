import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { ExitReason } from '../../../src/versions/exit-reason.js'

const DAY_S = 24 * 3_600

function place() {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-reason-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return { folder, control: join(folder, 'c.sock') }
}

it('removes the files of upgrades whose process was killed, not those of one that is under way', () => {
  const { control, folder } = place()
  const old = Date.now() / 1000 - 2 * DAY_S
  const write = (name: string, at = old) => {
    writeFileSync(join(folder, name), '')
    utimesSync(join(folder, name), at, at)
  }
  for (const end of ['', '.stderr', '.step']) write(`c.sock.0123456789abcdef${end}`)
  for (const name of ['c.sock.lock', 'c.sock.members', 'c.sock2.0123456789abcdef', 'c.sock.0123']) write(name)
  write('c.sock.fedcba9876543210.step', Date.now() / 1000)
  const reason = new ExitReason(control)
  reason.close()
  expect(readdirSync(folder).sort()).toEqual([
    'c.sock.0123',
    'c.sock.fedcba9876543210.step',
    'c.sock.lock',
    'c.sock.members',
    'c.sock2.0123456789abcdef',
  ])
})

it('throws nothing if its files cannot be removed: the outcome of an upgrade does not depend on them', () => {
  const reason = new ExitReason(place().control)
  const { value } = reason.mark
  // Only a folder cannot be removed by root.
  rmSync(`${value}.stderr`)
  mkdirSync(`${value}.stderr`)
  reason.close()
  expect(reason.takeLine()).toBeNull()
})
