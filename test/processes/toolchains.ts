import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { PROGRAMS } from './supervised.js'

const run = promisify(execFile)
const BUILD = fileURLToPath(new URL('../../build/programs', import.meta.url))

/** Whether this machine has a command. */
export function has(command: string): boolean {
  try {
    execFileSync('sh', ['-c', `command -v ${command}`], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

/** The Go program of the tests, built once; null: it cannot be. */
export async function goServer(): Promise<string | null> {
  const file = join(BUILD, 'server-go')
  if (existsSync(file)) return file
  if (!has('go')) return null
  mkdirSync(BUILD, { recursive: true })
  try {
    await run('go', ['build', '-o', file, join(PROGRAMS, 'server.go')], {
      env: { ...process.env, GOFLAGS: '-mod=mod', GO111MODULE: 'off' },
    })
    return file
  } catch {
    return null
  }
}

/** The folder with gunicorn for PYTHONPATH, installed once; null: it cannot be. */
export async function gunicorn(): Promise<string | null> {
  const folder = join(BUILD, 'python')
  if (existsSync(join(folder, 'gunicorn'))) return folder
  if (!has('python3')) return null
  try {
    await run('python3', ['-m', 'pip', 'install', '--quiet', '--target', folder, 'gunicorn'], {
      timeout: 60_000,
    })
    return folder
  } catch {
    return null
  }
}
