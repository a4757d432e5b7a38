import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { ExitReason } from '../../../src/versions/exit-reason.js'

it('reads the last words of a successor once, in one line, and their file goes', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-words-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const words = new ExitReason(join(folder, 'control.sock'))
  const file = words.env.FD_BROKER_LAST_WORDS!
  expect(words.takeLine()).toBeNull()
  writeFileSync(file, 'no port\n  give one\n')
  expect(words.takeLine()).toBe('no port; give one')
  expect(existsSync(file)).toBe(false)
  expect(words.takeLine()).toBeNull()
})
