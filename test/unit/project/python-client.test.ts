import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { NIGHTLY } from '../../lanes/lane.js'
import { has, mypy } from '../../processes/toolchains.js'

const CLIENT = fileURLToPath(new URL('../../../proto/clients/python', import.meta.url))
const PROGRAM = fileURLToPath(new URL('../../fixtures/app_asyncio.py', import.meta.url))
const MYPY = mypy(NIGHTLY)

function temporary(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-python-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

function python(args: readonly string[], cwd: string, env: Record<string, string> = {}): string {
  return execFileSync('python3', args, {
    cwd,
    encoding: 'utf8',
    stdio: 'pipe',
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1', ...env },
  })
}

describe('the member in Python', () => {
  it.skipIf(MYPY === null)(
    'has types that mypy --strict accepts, in itself and in a program that uses it',
    () => {
      const folder = temporary()
      const args = ['-m', 'mypy', '--strict', '--cache-dir', folder, join(CLIENT, 'fd_broker'), PROGRAM]
      expect(python(args, CLIENT, { PYTHONPATH: MYPY! })).toMatch(/^Success: no issues found/)
    },
  )

  it.runIf(NIGHTLY && has('python3'))('installs with its types, and leaves nothing in the tree', () => {
    const before = readdirSync(CLIENT).sort()
    const folder = temporary()
    const install = ['-m', 'pip', 'install', '--quiet', '--no-deps', '--no-compile', '--target', folder, '.']
    python(install, CLIENT)
    expect(existsSync(join(folder, 'fd_broker/py.typed'))).toBe(true)
    expect(readdirSync(CLIENT).sort()).toEqual(before)
  })
})
