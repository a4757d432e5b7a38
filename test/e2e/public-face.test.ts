import { execFileSync } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
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

interface Bundled {
  inputs: Record<string, { imports: { path: string; kind: string; external?: boolean }[] }>
}
/** The build's report of the files that it has made. */
const bundled = JSON.parse(readFileSync(join(root, 'build', 'bundle.json'), 'utf8')) as Bundled

/** The files and modules of Node that a process loads for these imports, files by their path from the root of the project. */
function loadedBy(...imports: string[]): string[] {
  const program = join(root, 'test', 'fixtures', 'loaded-modules.mjs')
  const out = execFileSync(process.execPath, [program, pathToFileURL(HOOKS).href, ...imports], {
    encoding: 'utf8',
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const urls = JSON.parse(out) as string[]
  return [
    ...new Set(urls.map(url => (url.startsWith('file:') ? fileURLToPath(url).slice(root.length) : url))),
  ]
}

/** The modules that are evaluated with a module, without those that wait until they are needed: of ours their source, packages by name. */
function loadedWith(source: string): string[] {
  const found = new Set<string>()
  const load = (path: string) => {
    if (found.has(path)) return
    found.add(path)
    // A `require()` of our modules waits in a function.
    for (const { path: next, kind, external } of bundled.inputs[path]?.imports ?? [])
      if (kind !== 'dynamic-import' && !(kind === 'require-call' && path.startsWith('build/')))
        external ? found.add(next) : load(next)
  }
  load(source.replace(/^src\/(.*)\.ts$/, 'build/modules/$1.js'))
  return [...found].map(sourceOf)
}

function sourceOf(input: string): string {
  const [, name] = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input) ?? []
  return name ?? input.replace(/^build\/modules\/(.*)\.js$/, 'src/$1.ts')
}

function rooms(loaded: readonly string[]): Set<string> {
  return new Set(loaded.map(path => path.split('/').slice(0, 2).join('/')))
}

describe("import 'fd-broker'", () => {
  const evaluated = loadedWith('src/index.ts')

  it('evaluates nothing of the proxy, nor of commands', () => {
    const here = rooms(evaluated)
    expect(here).toContain('src/member')
    for (const room of ['src/proxy', 'src/relay', 'src/http1', 'src/cli']) expect(here).not.toContain(room)
  })

  it('evaluates no package but what the wire needs', () => {
    const packages = new Set(evaluated.filter(name => !/^(?:src\/|node:|unused:|@protobufjs\/)/.test(name)))
    expect([...packages]).toEqual(['protobufjs'])
  })

  it('runs one file beside that of its names, and loads no TLS and no HTTP/2', () => {
    const loaded = loadedBy('fd-broker')
    expect(loaded.filter(name => name.startsWith('dist/')).sort()).toEqual(['dist/index.js', 'dist/load.cjs'])
    for (const name of ['node:tls', 'node:https', 'node:http2']) expect(loaded).not.toContain(name)
  })
})

describe('the other entries', () => {
  it("errors come alone: import 'fd-broker/errors'", () => {
    expect(loadedWith('src/errors.ts')).toEqual(['src/errors.ts'])
  })

  it("a relay of one's own evaluates no other relay: import 'fd-broker/adapter'", () => {
    const here = rooms(loadedWith('src/adapter.ts'))
    for (const room of ['src/proxy', 'src/relay', 'src/http1', 'src/cli', 'src/member', 'src/holder'])
      expect(here).not.toContain(room)
  })

  it("the proxy comes without its commands: import 'fd-broker/proxy'", () => {
    const evaluated = loadedWith('src/proxy/index.ts')
    expect(rooms(evaluated)).toContain('src/relay')
    expect(rooms(evaluated)).not.toContain('src/cli')
    expect(evaluated).not.toContain('commander')
  })

  it('a command loads what it needs', () => {
    const command = (name: string) => loadedWith(`src/cli/${name}.ts`)
    const status = rooms(command('status'))
    expect(status).toContain('src/operator')
    for (const room of ['proxy', 'relay', 'member', 'holder', 'state', 'moving'])
      expect(status).not.toContain(`src/${room}`)
    expect(status).not.toContain('yaml')
    expect([...rooms(command('program'))].filter(name => /^(?:src|yaml|pino)/.test(name)).sort()).toEqual([
      'src/base',
      'src/cli',
      'src/errors.ts',
    ])
    for (const name of ['proxy', 'routes', 'certificates']) {
      expect(command(name)).not.toContain('yaml')
      expect(rooms(command(name))).not.toContain('src/relay')
    }
  })

  it('share what they export, whichever is imported first', () => {
    const program = `
const entries = await Promise.all(['errors', 'proxy', 'adapter', ''].map(name => import(\`fd-broker/\${name}\`.replace(/\\/$/, ''))))
const [errors, , adapter, index] = entries
const same = [errors.FdbError === index.FdbError, adapter.FdbError === index.FdbError, adapter.OwnedFd === index.OwnedFd]
process.stdout.write(JSON.stringify(same))`
    const out = execFileSync(process.execPath, ['--input-type=module', '-e', program], {
      cwd: root,
      encoding: 'utf8',
    })
    expect(JSON.parse(out)).toEqual([true, true, true])
  })

  it('each has its types beside it', () => {
    type Conditions = string | { readonly [condition: string]: Conditions }
    const { exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
      exports: Record<string, Conditions>
    }
    expect(Object.keys(exports)).toEqual([
      '.',
      './proxy',
      './operator',
      './adapter',
      './auto',
      './errors',
      './stores',
      './sources',
      './streams',
      './ws',
      './socket.io',
      './package.json',
    ])
    const filesOf = (entry: Conditions): string[] =>
      typeof entry === 'string' ? [entry] : Object.values(entry).flatMap(filesOf)
    const files = Object.values(exports).flatMap(filesOf)
    expect(files.filter(file => !existsSync(join(root, file)))).toEqual([])
  })

  it('nothing else of the package can be imported', () => {
    expect(() => loadedBy('fd-broker/dist/member/member.js')).toThrow('ERR_PACKAGE_PATH_NOT_EXPORTED')
  })
})

it('shows the classes of the package by their names in stack traces and printed errors', () => {
  const program = `import { FdbError, join } from 'fd-broker'
console.log(new FdbError('ERR_FDB_BUSY', 'why'))
console.log(await join({ service: 'x'.repeat(200) }).catch(error => error.constructor.name))`
  const printed = execFileSync(process.execPath, ['--input-type=module', '--eval', program], {
    encoding: 'utf8',
    cwd: root,
  })
  expect(printed).toMatch(/^FdbError: why\n/)
  expect(printed).toMatch(/^Fdb(?:Type)?Error$/m)
  const files = readdirSync(join(root, 'dist')).filter(name => /\.c?js$/.test(name))
  const classes = files.flatMap(
    name => readFileSync(join(root, 'dist', name), 'utf8').match(/class _\w+/g) ?? [],
  )
  // A second class of that name in the command's parser.
  expect(classes.filter(name => name !== 'class _Command')).toEqual([])
})
