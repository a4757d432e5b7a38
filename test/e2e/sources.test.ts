import { once } from 'node:events'
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import http from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { EtcdSource } from 'fd-broker/sources'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { SourceStatus } from '../../src/sources/index.js'
import { Etcd } from '../processes/etcd.js'
import { Scene } from '../processes/scene.js'
import { has } from '../processes/toolchains.js'
import { wholeLines } from '../processes/whole-lines.js'

const APP = fileURLToPath(new URL('../fixtures/app-sources.mjs', import.meta.url))
const PREFIX = '/shop/prices/'

type Details = SourceStatus & { readonly size: number; readonly digest: string }

/** A service whose section follows a source; what its serving processes have seen is in one journal. */
class Following {
  readonly scene: Scene
  readonly #config: object

  constructor(scene: Scene, config: { kind: string; options: object; stateFile?: string }) {
    this.scene = scene
    this.#config = { control: scene.control, journal: scene.file('journal'), ...config }
    writeFileSync(scene.file('journal'), '')
  }

  next(more: object = {}) {
    const env = { SOURCES: JSON.stringify({ ...this.#config, ...more }) }
    return this.scene.serve({}, { command: [APP], env })
  }

  async details(what: string, holds: (details: Details) => boolean): Promise<Details> {
    const status = await this.scene.statusWhere(
      what,
      ({ details }) => details !== undefined && holds(details as unknown as Details),
      60_000,
    )
    return status.details as unknown as Details
  }

  async written(): Promise<void> {
    await this.scene.statusWhere('all is in the file', ({ state }) => state?.file?.behindBytes === 0)
  }

  /** Values in the order in which they were put, of all processes. */
  get journal(): string[] {
    return wholeLines(this.scene.file('journal'))
  }

  /** The entries that the journal results in. */
  get entries(): Record<string, unknown> {
    const entries = new Map<string, unknown>()
    for (const line of this.journal) {
      const [, op, key, value] = line.split(' ')
      if (op === 'put') entries.set(key!, JSON.parse(value!))
      else if (op === 'delete') entries.delete(key!)
    }
    return Object.fromEntries([...entries].sort())
  }
}

describe.skipIf(!has('etcd'))('a section that follows etcd', () => {
  it('goes on at the revision in each next version: no change is applied twice, none is missed', async () => {
    const scene = Scene.open()
    const etcd = await Etcd.start(scene)
    await etcd.putAll(Array.from({ length: 100 }, (_, n) => [`${PREFIX}first-${n}`, `${n}`] as const))
    await etcd.put('/shop/other', 'not of this section')
    const following = new Following(scene, { kind: 'etcd', options: { hosts: [etcd.url], prefix: PREFIX } })
    await following.next()
    let running = true
    let put = 0
    const changes = (async () => {
      for (; running; put++) await etcd.put(`${PREFIX}key-${put % 10}`, `${put}`)
      return await etcd.delete(`${PREFIX}key-0`)
    })()
    for (let upgrade = 0; upgrade < 3; upgrade++) {
      const before = put
      await following.next()
      await following.details('a change after the upgrade', ({ applied }) => applied > 0 && put > before)
    }
    running = false
    const last = await changes
    const { refusedCount, failure } = await following.details('the last revision', ({ revision }) =>
      revision!.startsWith(`${last}@`),
    )
    expect({ refusedCount, failure }).toEqual({ refusedCount: 0, failure: null })
    const seen = following.journal.flatMap(line => /put key-\d (\d+)/.exec(line)?.[1] ?? [])
    // A batch of the store has only the last change of a key.
    expect(seen).toEqual([...new Set(seen)].sort((a, b) => Number(a) - Number(b)))
    const stored = Array.from({ length: 9 }, (_, n) => [`key-${n + 1}`, put - 1 - ((put - 2 - n) % 10)])
    expect(following.entries).toMatchObject(Object.fromEntries(stored))
    expect(Object.keys(following.entries)).toHaveLength(109)
  })

  it('after kill -9, and if the store has forgotten the changes meanwhile, has the store’s contents', async () => {
    const scene = Scene.open()
    const etcd = await Etcd.start(scene)
    for (let n = 0; n < 52; n++)
      await etcd.putAll(
        Array.from({ length: 100 }, (_, at) => [`${PREFIX}${n * 100 + at}`, `${at}`] as const),
      )
    const following = new Following(scene, {
      kind: 'etcd',
      options: { hosts: [etcd.url], prefix: PREFIX },
      stateFile: scene.file('state'),
    })
    const first = await following.next()
    await etcd.put(`${PREFIX}before`, '1')
    const before = await following.details('all entries', ({ size }) => size === 5_201)
    await following.written()
    await first.kill()
    await etcd.put(`${PREFIX}away`, '2')
    const second = await following.next()
    await following.details('the change while no process served', ({ applied }) => applied === 1)
    await following.written()
    // Only the changes: the entries of the first process came from the state file.
    const own = following.journal.filter(line => line.startsWith(`${second.pid} `))
    expect(own).toEqual([`${second.pid} put away 2`])
    await second.kill()
    await etcd.delete(`${PREFIX}7`)
    await etcd.put(`${PREFIX}8`, '88')
    await etcd.compact(await etcd.put(`${PREFIX}last`, '3'))
    const third = await following.next()
    const after = await following.details('the contents of the store', ({ applied }) => applied > 0)
    expect(after).toMatchObject({ size: 5_202, failure: null, refusedCount: 0 })
    expect(after.digest).not.toBe(before.digest)
    const difference = following.journal.filter(line => line.startsWith(`${third.pid} `)).sort()
    expect(difference).toEqual(
      ['delete 7 undefined', 'put 8 88', 'put last 3'].map(line => `${third.pid} ${line}`),
    )
  })

  it('reads only what has changed since a revision that the store has compacted', async () => {
    const etcd = await Etcd.start(Scene.open())
    const source = new EtcdSource({ hosts: [etcd.url], prefix: PREFIX })
    const of = (...keys: string[]) => new Set(keys)
    const { signal } = new AbortController()
    const nextAfter = async (since: string | null, known: ReadonlySet<string>) => {
      for await (const batch of source.read(since, signal, known)) {
        const entries = 'all' in batch ? batch.all : batch.changes
        const texts = entries.map(({ key, value }) => `${key} ${value === null ? null : Buffer.from(value)}`)
        return { kind: 'all' in batch ? 'all' : 'changes', texts: texts.sort(), revision: batch.revision }
      }
    }
    for (const key of ['a', 'b', 'c']) await etcd.put(PREFIX + key, '1')
    const { revision } = (await nextAfter(null, of()))!
    await etcd.compact(await etcd.put(`${PREFIX}b`, '2'))
    const put = await nextAfter(revision, of('a', 'b', 'c'))
    expect(put).toMatchObject({ kind: 'changes', texts: ['b 2'] })
    await etcd.delete(`${PREFIX}a`)
    await etcd.put(`${PREFIX}d`, '3')
    await etcd.delete(`${PREFIX}c`)
    await etcd.compact(await etcd.put(`${PREFIX}c`, '4'))
    const more = await nextAfter(put!.revision, of('a', 'b', 'c'))
    expect(more).toMatchObject({ kind: 'changes', texts: ['a null', 'c 4', 'd 3'] })
    // The section is not what it was at the revision.
    expect(await nextAfter(put!.revision, of())).toMatchObject({
      kind: 'all',
      texts: ['b 2', 'c 4', 'd 3'],
    })
  })

  it('keeps its entries while the store is away, and goes on afterwards', async () => {
    const scene = Scene.open()
    const etcd = await Etcd.start(scene)
    await etcd.put(`${PREFIX}apple`, '1')
    const following = new Following(scene, { kind: 'etcd', options: { hosts: [etcd.url], prefix: PREFIX } })
    await following.next()
    await etcd.stop()
    await following.details('the failure', ({ failure, size }) => failure !== null && size === 1)
    await following.next()
    expect(await following.details('the failure', ({ failure }) => failure !== null)).toMatchObject({
      size: 1,
    })
    await etcd.start()
    await etcd.put(`${PREFIX}pear`, '2')
    await following.details('the change', ({ failure, size }) => failure === null && size === 2)
    expect(following.entries).toEqual({ apple: 1, pear: 2 })
  })

  it('refuses a bad entry by its name, and lets a next version use it that can', async () => {
    const scene = Scene.open()
    const etcd = await Etcd.start(scene)
    await etcd.putAll([
      [`${PREFIX}apple`, '1'],
      [`${PREFIX}pear`, '"cheap"'],
      [`${PREFIX}plum`, 'no JSON'],
    ])
    const following = new Following(scene, { kind: 'etcd', options: { hosts: [etcd.url], prefix: PREFIX } })
    await following.next()
    const { refused } = await following.details('the refusals', ({ refusedCount }) => refusedCount === 2)
    expect(refused).toEqual({ pear: 'the price of pear is no number', plum: expect.stringMatching(/JSON/) })
    await etcd.put(`${PREFIX}plum`, '3')
    await following.details('the mended entry', ({ refusedCount, size }) => refusedCount === 1 && size === 2)
    await following.next({ strict: false })
    await following.details('the entry of the next version', ({ refusedCount }) => refusedCount === 0)
    expect(following.entries).toEqual({ apple: 1, pear: 'cheap', plum: 3 })
  })
})

describe('a section that follows a folder', () => {
  it('has an entry for each file: new, changed and removed ones arrive, also after an upgrade', async () => {
    const scene = Scene.open()
    const folder = scene.file('prices')
    mkdirSync(folder)
    const write = (name: string, text: string) => {
      writeFileSync(join(folder, `.${name}`), text)
      renameSync(join(folder, `.${name}`), join(folder, name))
    }
    write('apple', '1')
    write('pear', '2')
    const following = new Following(scene, { kind: 'folder', options: { folder } })
    await following.next()
    expect(following.entries).toEqual({ apple: 1, pear: 2 })
    write('apple', '3')
    await following.details('the changed file', () => following.entries.apple === 3)
    await following.next()
    rmSync(join(folder, 'pear'))
    write('plum', 'no number')
    await following.details('the removed file', ({ size, refusedCount }) => size === 1 && refusedCount === 1)
    // At once: files that are removed one after the other are entries that are removed.
    renameSync(folder, `${folder}.gone`)
    await following.details('the missing folder', ({ failure, size }) => failure !== null && size === 1)
    expect(following.entries).toEqual({ apple: 3 })
  })
})

describe('a section that follows an HTTP server', () => {
  it('asks with the ETag of the state, and keeps its entries while the server fails', async () => {
    const scene = Scene.open()
    let contents: object | null = { apple: 1, pear: 2 }
    let etag = '"one"'
    const asked: (string | undefined)[] = []
    const server = http.createServer((request, response) => {
      asked.push(request.headers['if-none-match'])
      if (contents === null) response.writeHead(500).end()
      else if (request.headers['if-none-match'] === etag) response.writeHead(304).end()
      else response.writeHead(200, { etag }).end(JSON.stringify(contents))
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => void server.close().closeAllConnections())
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/prices`
    const following = new Following(scene, { kind: 'http', options: { url, interval: 100 } })
    await following.next()
    expect(following.entries).toEqual({ apple: 1, pear: 2 })
    expect(asked[0]).toBeUndefined()
    asked.length = 0
    await following.next()
    await following.details('an answer to the next version', () => asked.length > 3)
    expect(new Set(asked)).toEqual(new Set(['"one"']))
    contents = null
    await following.details('the failure', ({ failure, size }) => failure !== null && size === 2)
    contents = { pear: 3 }
    etag = '"two"'
    await following.details('the new contents', ({ size, failure }) => size === 1 && failure === null)
    expect(following.entries).toEqual({ pear: 3 })
  })
})
