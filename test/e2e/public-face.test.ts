import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))
const folder = mkdtempSync(join(tmpdir(), 'fdb-face-'))
afterAll(() => rmSync(folder, { recursive: true }))

/** Notes each module that is loaded, and says so at the end. */
const HOOKS = join(folder, 'hooks.mjs')
writeFileSync(
  HOOKS,
  `let port
export function initialize(given) { port = given }
export async function load(url, context, next) {
  port.postMessage(url)
  return next(url, context)
}
`,
)

/** What a process loads for these imports, by its path from the root of the project: packages by their name. */
function loadedBy(...imports: string[]): string[] {
  const program = join(root, 'test', 'fixtures', 'loaded-modules.mjs')
  const out = execFileSync(process.execPath, [program, pathToFileURL(HOOKS).href, ...imports], {
    encoding: 'utf8',
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const urls = JSON.parse(out) as string[]
  return [...new Set(urls.map(named))].sort()
}

function named(url: string): string {
  if (!url.startsWith('file:')) return url
  const path = fileURLToPath(url)
  const [, name] = /\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path) ?? []
  return name ?? path.slice(root.length)
}

function rooms(loaded: readonly string[]): Set<string> {
  return new Set(loaded.map(path => path.split('/').slice(0, 2).join('/')))
}

describe("import 'fd-broker'", () => {
  const loaded = loadedBy('fd-broker')

  it('loads nothing of the proxy, nor of commands', () => {
    const here = rooms(loaded)
    expect(here).toContain('dist/index.js')
    expect(here).toContain('dist/member')
    for (const room of ['dist/proxy', 'dist/relay', 'dist/http1', 'dist/cli'])
      expect(here).not.toContain(room)
  })

  it('loads no package but what the wire needs', () => {
    const packages = loaded.filter(
      name => !/^(?:dist\/|test\/|node:|build\/|prebuilds\/|package\.json$)/.test(name),
    )
    expect(packages.filter(name => !name.startsWith('@protobufjs/') && name !== 'long')).toEqual([
      'protobufjs',
    ])
  })

  it('loads no TLS, and no HTTP/2', () => {
    expect(loaded).not.toContain('node:tls')
    expect(loaded).not.toContain('node:https')
    expect(loaded).not.toContain('node:http2')
  })
})

describe('the other entries', () => {
  it("errors come alone: import 'fd-broker/errors'", () => {
    expect(loadedBy('fd-broker/errors').filter(name => name.startsWith('dist'))).toEqual(['dist/errors.js'])
  })

  it("a relay of one's own loads no other relay: import 'fd-broker/adapter'", () => {
    const here = rooms(loadedBy('fd-broker/adapter'))
    for (const room of ['dist/proxy', 'dist/relay', 'dist/http1', 'dist/cli', 'dist/member', 'dist/holder'])
      expect(here).not.toContain(room)
  })

  it("the proxy comes without its commands: import 'fd-broker/proxy'", () => {
    const loaded = loadedBy('fd-broker/proxy')
    expect(rooms(loaded)).toContain('dist/relay')
    expect(rooms(loaded)).not.toContain('dist/cli')
    expect(loaded).not.toContain('commander')
  })

  it('a command loads what it needs', () => {
    const command = (name: string) => loadedBy(pathToFileURL(join(root, 'dist', 'cli', `${name}.js`)).href)
    const status = rooms(command('status'))
    for (const room of [
      'dist/proxy',
      'dist/relay',
      'dist/member',
      'dist/holder',
      'dist/state',
      'dist/moving',
      'yaml',
    ])
      expect(status).not.toContain(room)
    expect([...rooms(command('program'))].filter(name => /^(?:dist|yaml|pino)/.test(name))).toEqual([
      'dist/cli',
      'dist/errors.js',
    ])
    for (const name of ['proxy', 'routes', 'certificates']) {
      expect(command(name)).not.toContain('yaml')
      expect(rooms(command(name))).not.toContain('dist/relay')
    }
  })

  it('each has its types beside it', () => {
    const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
      exports: Record<string, string | { types: string; default: string }>
    }
    expect(Object.keys(exports)).toEqual(['.', './proxy', './adapter', './errors', './package.json'])
    const files = Object.values(exports).flatMap(entry =>
      typeof entry === 'string' ? [entry] : Object.values(entry),
    )
    expect(files.filter(file => !existsSync(join(root, file)))).toEqual([])
  })

  it('nothing else of the package can be imported', () => {
    expect(() => loadedBy('fd-broker/dist/member/member.js')).toThrow('ERR_PACKAGE_PATH_NOT_EXPORTED')
  })
})
