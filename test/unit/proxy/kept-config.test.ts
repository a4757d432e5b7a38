import {
  chmodSync,
  chownSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { dump } from 'js-yaml'
import { beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { CacheFile } from '../../../src/base/cache-file.js'
import { KeptConfig } from '../../../src/proxy/config/kept-config.js'
import { type configFrom, configOf } from '../../../src/proxy/config/load.js'
import { issue } from '../../processes/certificate.js'

type ProxyConfig = ReturnType<typeof configOf>
type ProxyDocument = Parameters<typeof configFrom>[0]

let folder = ''
let file = ''
let caches = ''

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fd-broker-kept-'))
  file = join(folder, 'edge.yaml')
  caches = join(folder, 'cache')
  vi.stubEnv('FD_BROKER_CODE_CACHE', caches)
  onTestFinished(() => {
    vi.unstubAllEnvs()
    rmSync(folder, { recursive: true })
  })
})

const LISTENERS = [{ name: 'web', address: 'tcp://127.0.0.1:0' }] as const
/** Two routes with one answer: a file that is parsed has it twice, a kept one once. */
const ok = { respond: { body: 'ok' } }
const DOCUMENT: ProxyDocument = {
  service: 'edge',
  listeners: LISTENERS,
  routes: [
    { host: 'one.test', ...ok },
    { host: 'two.test', ...ok },
  ],
}

const write = (document: object) => writeFileSync(file, dump(document, { noRefs: true }))
const read = () => new KeptConfig(file).read()
const parsed = () => configOf(readFileSync(file), file)
const wasKept = ({ routes }: ProxyConfig) => routes[0]!.target === routes[1]!.target

async function keep(document: object = DOCUMENT): Promise<void> {
  write(document)
  const config = new KeptConfig(file)
  config.read()
  await config.keep()
}

function keptFile(): string {
  const [name = '', ...others] = readdirSync(caches)
  expect(others).toEqual([])
  return join(caches, name)
}

/** Reads without the kept file, and with the same result. */
function expectParsed(): void {
  const config = read()
  expect(wasKept(config)).toBe(false)
  expect(config).toEqual(parsed())
}

describe('a kept configuration', () => {
  it('a file that was kept gives the same configuration, and only its owner can read it', async () => {
    await keep()
    const config = read()
    expect(wasKept(config)).toBe(true)
    expect(config).toEqual(parsed())
    expect(JSON.stringify(config)).toBe(JSON.stringify(parsed()))
    expect(statSync(keptFile()).mode & 0o777).toBe(0o600)
  })

  it('routes of every kind are kept, and more targets than are shared', async () => {
    const set = { 'X-One': 'a "b" $host', 'X-Two': 'two' }
    const routes: ProxyDocument['routes'] = [
      { host: '*', upstream: 'app' },
      { host: '*', path: '/%C3%A9', upstream: 'app', connect: true },
      { host: 'B\u00dccher.test', path: '/a', listener: 'web', respond: { status: 204 } },
      {
        host: '*.test',
        respond: { status: 404, body: 'line\u2028\n\u{1f600} "\\"', headers: { 'X-A': '1' } },
      },
      {
        host: '[::1]',
        upstream: 'app',
        path: '/a/b',
        request: { host: 'x:1', stripPrefix: '/a', addPrefix: '/c', set, remove: ['Cookie'] },
        response: { remove: ['Server'] },
        basicAuth: { users: { b: 'B0'.repeat(32), 'a\u00e9': 'a0'.repeat(32) } },
        cors: { origins: ['*'] },
        rateLimit: { requests: 10 },
        accessLog: false,
        when: ['header:x="y"'],
      },
      {
        host: 'auth.test',
        path: '/*/a',
        upstream: 'app',
        forwardAuth: { upstream: 'app', responseHeaders: ['A'] },
      },
      ...Array.from({ length: 5_000 }, (_, n) => ({ host: `${n}.test`, respond: { body: `${n}` } })),
      ...Array.from({ length: 5_000 }, (_, n) => ({ host: `${n}.again.test`, respond: { body: `${n}` } })),
    ]
    await keep({ ...DOCUMENT, upstreams: { app: { servers: ['http://127.0.0.1:1'] } }, routes })
    const config = read()
    const [first, again] = [6, 5_006].map(from => config.routes.slice(from, from + 5_000))
    const isShared = first!.map(({ target }, n) => target === again![n]!.target)
    expect([isShared[0], isShared.at(-1)]).toEqual([true, false])
    expect(JSON.stringify(config)).toBe(JSON.stringify(parsed()))
  })

  it('a changed file is parsed, and not if it is changed back', async () => {
    await keep()
    write({ ...DOCUMENT, routes: [...DOCUMENT.routes!, { host: 'three.test', ...ok }] })
    expectParsed()
    expect(read().routes).toHaveLength(3)
    write({ ...DOCUMENT, limits: { fields: 7 } })
    expectParsed()
    expect(read().limits.fields).toBe(7)
    write(DOCUMENT)
    expect(wasKept(read())).toBe(true)
    expect(read()).toEqual(parsed())
  })

  it('a large file is written in small parts', async () => {
    const sizes: number[] = []
    const spy = vi.spyOn(CacheFile.prototype, 'writeParts').mockImplementation(async parts => {
      for (const { length } of parts()) sizes.push(length)
    })
    onTestFinished(() => spy.mockRestore())
    const body = 'x'.repeat(50_000)
    await keep({
      ...DOCUMENT,
      routes: Array.from({ length: 100 }, (_, n) => ({
        host: `${n}.test`,
        respond: { body: `${n} ${body}` },
      })),
    })
    expect(sizes.length).toBeGreaterThan(50)
    expect(Math.max(...sizes)).toBeLessThanOrEqual(256 * 1024)
  })

  it('a check parses the file all the same, and keeps it again', async () => {
    await keep()
    const config = new KeptConfig(file)
    expect(wasKept(config.check())).toBe(false)
    rmSync(keptFile())
    await config.keep()
    expect(wasKept(read())).toBe(true)
  })

  it('a changed file takes the place of the one before', async () => {
    await keep()
    const before = keptFile()
    await keep({ ...DOCUMENT, service: 'other' })
    expect(keptFile()).toBe(before)
    expect(read()).toMatchObject({ service: 'other' })
    expect(wasKept(read())).toBe(true)
  })

  it.each<[what: string, damage: (path: string) => void]>([
    ['cut off', path => writeFileSync(path, readFileSync(path).subarray(0, -10))],
    ['empty', path => writeFileSync(path, '')],
    ['longer', path => writeFileSync(path, Buffer.concat([readFileSync(path), Buffer.from('\n[]')]))],
    [
      'of other routes',
      path => writeFileSync(path, readFileSync(path, 'utf8').replaceAll('two.test', 'six.test')),
    ],
    ['of another Node', path => writeFileSync(path, readFileSync(path, 'utf8').replace('"v', '"w'))],
    ['one that others can write', path => chmodSync(path, 0o622)],
    ['in a folder that others can write to', () => chmodSync(caches, 0o777)],
    [
      'a folder',
      path => {
        rmSync(path)
        mkdirSync(path)
      },
    ],
    [
      'a link',
      path => {
        writeFileSync(join(folder, 'moved'), readFileSync(path), { mode: 0o600 })
        rmSync(path)
        symlinkSync(join(folder, 'moved'), path)
      },
    ],
  ])('a reader parses the file if the cache is %s', async (_what, damage) => {
    await keep()
    damage(keptFile())
    expectParsed()
  })

  it.runIf(process.geteuid?.() === 0)(
    'a reader parses the file if the cache belongs to another user',
    async () => {
      await keep()
      chownSync(keptFile(), 12_345, 12_345)
      expectParsed()
      await keep()
      expect(wasKept(read())).toBe(true)
      chownSync(caches, 12_345, 12_345)
      expectParsed()
    },
  )

  it('a reader parses another file with the same name', async () => {
    await keep()
    const elsewhere = join(folder, 'elsewhere')
    mkdirSync(elsewhere)
    file = join(elsewhere, 'edge.yaml')
    write(DOCUMENT)
    expectParsed()
  })

  it('certificates are read from their files each time', async () => {
    const certificate = issue(folder, 'edge', ['one.test'])
    await keep({ ...DOCUMENT, tls: { certificates: [certificate] } })
    issue(folder, 'edge', ['two.test'])
    expect(wasKept(read())).toBe(true)
    expect(read().tls.certificates).toMatchObject([{ names: ['two.test'] }])
  })

  it('a path that has become wrong is refused with its place in the file', async () => {
    const stateFile = join(folder, 'state')
    await keep({ ...DOCUMENT, stateFile })
    mkdirSync(stateFile)
    expect(parsed).toThrow(/^.*edge\.yaml:\d+:\d+: stateFile: .* is a folder/)
    let text = ''
    try {
      parsed()
    } catch (error) {
      text = (error as Error).message
    }
    expect(read).toThrow(text)
  })
})

describe('no cache', () => {
  it('a small file in JSON is not kept', async () => {
    writeFileSync(file, JSON.stringify(DOCUMENT))
    const config = new KeptConfig(file)
    config.read()
    await config.keep()
    expect(() => readdirSync(caches)).toThrow('ENOENT')
  })

  it('a configuration with mistakes is not kept', async () => {
    write({ ...DOCUMENT, service: '' })
    const config = new KeptConfig(file)
    expect(() => config.read()).toThrow('service')
    await config.keep()
    expect(() => readdirSync(caches)).toThrow('ENOENT')
  })

  it('a folder that cannot be made is no error', async () => {
    writeFileSync(caches, 'a file where the folder would be')
    await keep()
    expectParsed()
    expect(readFileSync(caches, 'utf8')).toBe('a file where the folder would be')
  })

  it('a reader without a cache parses the file', async () => {
    vi.stubEnv('FD_BROKER_CODE_CACHE', 'off')
    await keep()
    expectParsed()
  })
})

it('a file that cannot be read is an error as without the cache', async () => {
  await keep()
  rmSync(file)
  mkdirSync(file)
  expect(read).toThrow(/edge\.yaml cannot be read .*EISDIR.*; give the path of a YAML or JSON file/)
})
