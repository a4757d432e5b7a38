import { mkdtempSync, readdirSync, rmSync, unlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { PathBackup } from '../../../src/run/predecessor.js'

it('keeps a path also where one of the same number was killed while it did', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-kept-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'web.sock')
  writeFileSync(path, '')
  writeFileSync(`${path}.adopted-${process.pid}`, 'stale')
  using kept = new PathBackup(path)
  unlinkSync(path)
  kept.restore()
  kept[Symbol.dispose]()
  expect(readdirSync(folder)).toEqual(['web.sock'])
})
