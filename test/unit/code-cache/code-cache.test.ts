import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setFlagsFromString } from 'node:v8'
import { describe, expect, it, onTestFinished } from 'vitest'
import { cacheFolders, isPrivate } from '../../../src/base/cache-file.js'
import { CachedProgram, CodeCache, MOST_FILES } from '../../../src/code-cache/code-cache.js'

const OWN = process.geteuid!()
const PROGRAM = { uid: OWN, mode: 0o100644 }

/** A folder in a private one. */
function scene() {
  const root = mkdtempSync(join(tmpdir(), 'fdb-launch-'))
  onTestFinished(() => rmSync(root, { recursive: true, force: true }))
  const file = join(root, 'program.cjs')
  writeFileSync(
    file,
    'exports.add = (a, b) => a + b; exports.joins = () => {}; exports.unused = () => "never called"',
  )
  const folder = join(root, '.code-cache')
  const cache = (facts = 'these') => new CodeCache({ name: 'add', facts, package: root, owner: PROGRAM })
  /** `call`: another of its functions that is called. */
  const start = (facts?: string, call?: 'joins') => {
    const program = new CachedProgram(file, cache(facts))
    const { add, joins } = program.load(createRequire(file)) as {
      add(a: number, b: number): number
      joins(): void
    }
    expect(add(1, 2)).toBe(3)
    if (call === 'joins') joins()
    return program
  }
  const written = () => readdirSync(folder).map(name => join(folder, name))
  return { root, folder, cache, start, written }
}

/** Sets the times long ago, so that the test sees a new file. */
function age(file: string): void {
  utimesSync(file, 1, 1)
}

const isAged = (file: string) => statSync(file).mtimeMs === 1000

describe('compiled code', () => {
  it('stays after the program has run, for its owner alone to write, and serves the next start', () => {
    const { start, written, folder, cache } = scene()
    start().save('ended')
    const [file = '', ...others] = written()
    expect(others).toEqual([])
    expect(statSync(folder).mode & 0o022).toBe(0)
    expect(statSync(file).mode & 0o133).toBe(0)
    expect(cache().read()?.stage).toBe('ended')
    age(file)
    start().save('ended')
    expect(isAged(file)).toBe(true)
  })

  it('of a process that served takes the place of what one that came to its end has kept, not the other way', () => {
    const { start, written, cache } = scene()
    start().save('ended')
    start().save('served')
    expect(cache().read()?.stage).toBe('served')
    age(written()[0]!)
    start().save('ended')
    expect(isAged(written()[0]!)).toBe(true)
  })

  it('grows with what a process has done, and never shrinks', () => {
    const { start, written, cache } = scene()
    start().save('served')
    const size = () => cache().read()?.data.length ?? 0
    const before = size()
    const second = start('these', 'joins')
    second.save('joined')
    expect(cache().read()?.stage).toBe('joined')
    expect(size()).toBeGreaterThan(before)
    second.save('left')
    expect(cache().read()?.stage).toBe('left')
    age(written()[0]!)
    for (const when of ['ended', 'served', 'joined', 'left'] as const) start().save(when)
    expect(isAged(written()[0]!)).toBe(true)
  })

  it('stays as it is when a process knows less of it than it began with', () => {
    const { start, written, cache } = scene()
    start().save('served')
    const { data } = cache().read()!
    // V8 takes no notice of what lies behind, and this one will not have it.
    cache().write(Buffer.concat([data, Buffer.alloc(1000)]), 'served')
    age(written()[0]!)
    start().save('joined')
    expect(isAged(written()[0]!)).toBe(true)
    expect(cache().read()?.stage).toBe('served')
  })

  it.each<[what: string, damage: (bytes: Buffer) => Buffer]>([
    ['cut off', bytes => bytes.subarray(0, bytes.length - 10)],
    ['empty', () => Buffer.alloc(0)],
    ['changed in one bit', bytes => bytes.fill(bytes[400]! ^ 1, 400, 401)],
    ['all zeros', bytes => Buffer.alloc(bytes.length)],
  ])('counts for nothing if it is %s, and is written again', (_what, damage) => {
    const { start, written, cache } = scene()
    start().save('ended')
    const [file = ''] = written()
    writeFileSync(file, damage(readFileSync(file)))
    expect(cache().read()).toBe(undefined)
    age(file)
    start().save('ended')
    expect(isAged(file)).toBe(false)
    expect(cache().read()?.stage).toBe('ended')
  })

  it('gets a new file after V8 did not take it', () => {
    const { start, written, cache } = scene()
    cache().write(Buffer.from('nothing that V8 has made'), 'served')
    age(written()[0]!)
    start().save('ended')
    expect(isAged(written()[0]!)).toBe(false)
    expect(cache().read()?.stage).toBe('ended')
  })

  it('belongs to one program, version and command line', () => {
    const { start, cache } = scene()
    start('these').save('ended')
    expect(cache('others').read()).toBe(undefined)
  })

  it('of another is not used where it lies under the name of this one', () => {
    const { start, cache, written } = scene()
    start('these').save('ended')
    const [these = ''] = written()
    start('others').save('ended')
    const others = written().find(file => file !== these)!
    writeFileSync(these, readFileSync(others))
    expect([cache('these').read(), cache('others').read()?.stage]).toEqual([undefined, 'ended'])
  })

  it('of other versions goes when there is much of it', () => {
    const { start, written } = scene()
    for (let n = 0; n < 60; n++) start(`version ${n}`).save('ended')
    expect(written().length).toBe(MOST_FILES)
  })

  it('stays unwritten while V8 has other flags than at the start', () => {
    const { start, cache } = scene()
    const program = start()
    setFlagsFromString('--semi-space-growth-factor=1')
    try {
      program.save('served')
      expect(cache().read()).toBe(undefined)
    } finally {
      setFlagsFromString('--semi-space-growth-factor=2')
    }
    program.save('served')
    expect(cache().read()?.stage).toBe('served')
  })

  it('may be missing: a program starts where none can be written', () => {
    const { root, start } = scene()
    writeFileSync(join(root, '.code-cache'), 'a file where the folder would be')
    vary({ FD_BROKER_CODE_CACHE: undefined, XDG_CACHE_HOME: join(root, 'program.cjs') })
    start().save('served')
  })
})

/** For this test. */
function vary(env: Record<string, string | undefined>): void {
  const before = { ...process.env }
  onTestFinished(() => {
    process.env = before
  })
  for (const [name, value] of Object.entries(env)) {
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
  }
}

describe('no process uses or writes the cache,', () => {
  it('where the folder can be written to by others', () => {
    const { start, folder, written, cache } = scene()
    start().save('ended')
    chmodSync(folder, 0o777)
    expect(cache().read()).toBe(undefined)
    vary({ XDG_CACHE_HOME: '/dev/null/nowhere' })
    age(written()[0]!)
    start().save('served')
    expect(isAged(written()[0]!)).toBe(true)
  })

  it('where the file can be', () => {
    const { start, written, cache } = scene()
    start().save('ended')
    chmodSync(written()[0]!, 0o666)
    expect(cache().read()).toBe(undefined)
  })

  it('where the folder or the file is a link', () => {
    const { root, start, folder, cache } = scene()
    const elsewhere = join(root, 'elsewhere')
    mkdirSync(elsewhere, { mode: 0o755 })
    symlinkSync(elsewhere, folder)
    vary({ XDG_CACHE_HOME: '/dev/null/nowhere' })
    start().save('ended')
    expect(readdirSync(elsewhere)).toEqual([])
    rmSync(folder)
    start().save('ended')
    const [name = ''] = readdirSync(folder)
    writeFileSync(join(root, 'moved'), readFileSync(join(folder, name)))
    rmSync(join(folder, name))
    symlinkSync(join(root, 'moved'), join(folder, name))
    expect(cache().read()).toBe(undefined)
  })

  it('below a folder in which others can put another in its place', () => {
    const { root } = scene()
    const open = join(root, 'open')
    mkdirSync(join(open, 'cache', 'fd-broker'), { recursive: true, mode: 0o700 })
    const [folder] = cacheFolders(root, PROGRAM, { FD_BROKER_CODE_CACHE: join(open, 'cache') })
    expect(isPrivate(folder!)).toBe(true)
    chmodSync(open, 0o777)
    expect(isPrivate(folder!)).toBe(false)
    chmodSync(open, 0o1777)
    expect(isPrivate(folder!)).toBe(true)
  })
})

describe('the folder', () => {
  const paths = (program: typeof PROGRAM, env: NodeJS.ProcessEnv) =>
    cacheFolders('/opt/fd-broker', program, env).map(({ path, mayWrite }) => `${path}${mayWrite ? ' w' : ''}`)

  it('belongs to the package, if only its owner can change that, else to the user', () => {
    const env = { XDG_CACHE_HOME: '/c' }
    expect(paths(PROGRAM, env)).toEqual(['/opt/fd-broker/.code-cache w', '/c/fd-broker w'])
    expect(paths({ ...PROGRAM, uid: OWN + 1 }, env)).toEqual(['/opt/fd-broker/.code-cache', '/c/fd-broker w'])
    expect(paths({ ...PROGRAM, mode: 0o100666 }, env)).toEqual(['/c/fd-broker w'])
    expect(paths(PROGRAM, { ...env, CACHE_DIRECTORY: '/var/cache/a:/var/cache/b' })[1]).toBe(
      '/var/cache/a/fd-broker w',
    )
  })

  it('can be named, or refused', () => {
    expect(paths(PROGRAM, { FD_BROKER_CODE_CACHE: '/c' })).toEqual(['/c w'])
    expect(paths(PROGRAM, { FD_BROKER_CODE_CACHE: 'off' })).toEqual([])
    expect(paths(PROGRAM, { FD_BROKER_CODE_CACHE: 'relative' })).toEqual([])
  })
})
