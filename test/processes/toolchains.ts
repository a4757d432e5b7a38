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
export function goServer(): Promise<string | null> {
  return goProgram('server-go', join(PROGRAMS, 'server.go'))
}

/** The client in Go, built once; null: it cannot be. */
export function goClient(): Promise<string | null> {
  return goProgram('tls-client-go', at('test/fixtures/tls_client.go'))
}

async function goProgram(name: string, source: string): Promise<string | null> {
  const file = join(BUILD, name)
  if (existsSync(file)) return file
  if (!has('go')) return null
  mkdirSync(BUILD, { recursive: true })
  try {
    await run('go', ['build', '-o', file, source], {
      env: { ...process.env, GOFLAGS: '-mod=mod', GO111MODULE: 'off' },
    })
    return file
  } catch {
    return null
  }
}

export type MemberLanguage = 'python' | 'go'

/** The members in other languages, with the tool that a machine has if it can run them. */
export const MEMBERS: readonly {
  readonly language: MemberLanguage
  readonly name: string
  readonly tool: string
}[] = [
  { language: 'python', name: 'Python', tool: 'python3' },
  { language: 'go', name: 'Go', tool: 'go' },
]

const at = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url))

/** Nothing is looked for elsewhere: neither modules nor another toolchain. */
export const GO_ALONE = {
  GOFLAGS: '-mod=readonly',
  GO111MODULE: 'on',
  GOPROXY: 'off',
  GOTOOLCHAIN: 'local',
  GOWORK: 'off',
}

/** The start of test/fixtures/app.mjs in that language. A compiled program is compiled when it has changed. */
export async function builtMember(
  language: MemberLanguage,
): Promise<{ command: string; env: Readonly<Record<string, string>> }> {
  if (language === 'python') {
    const env = { PYTHONPATH: at('proto/clients/python'), PYTHONDONTWRITEBYTECODE: '1' }
    return { command: `python3 ${at('test/fixtures/app.py')}`, env }
  }
  built ??= buildGo()
  return { command: await built, env: {} }
}

let built: Promise<string> | undefined

async function buildGo(): Promise<string> {
  const file = join(BUILD, 'app-go')
  mkdirSync(BUILD, { recursive: true })
  await run('go', ['build', '-o', file, '.'], {
    cwd: at('test/fixtures/app-go'),
    env: { ...process.env, ...GO_ALONE },
  })
  return file
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

/** The folder with mypy for PYTHONPATH, installed once if `install`; null: it is not there. */
export function mypy(install: boolean): string | null {
  return pythonPackage('mypy', 'mypy<3', install)
}

/** The same for the client library of Prometheus. */
export function prometheusClient(install: boolean): string | null {
  return pythonPackage('prometheus_client', 'prometheus-client<1', install)
}

/** The same for QUIC. */
export function aioquic(install: boolean): string | null {
  return pythonPackage('aioquic', 'aioquic<2', install)
}

function pythonPackage(name: string, spec: string, install: boolean): string | null {
  const folder = join(BUILD, name)
  if (existsSync(join(folder, name)) || !has('python3')) return existsSync(folder) ? folder : null
  if (!install) return null
  try {
    const pip = ['-m', 'pip', 'install', '--quiet', '--target', folder, spec]
    execFileSync('python3', pip, { stdio: 'pipe', timeout: 180_000 })
    return folder
  } catch {
    return null
  }
}
