import { once } from 'node:events'
import { mkdirSync, mkdtempSync, renameSync, rmSync, watch, writeFileSync } from 'node:fs'
import { createServer, type RequestListener, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join as pathOf } from 'node:path'
import { json } from 'node:stream/consumers'
import { it, onTestFinished } from 'vitest'
import { codec, defineSection, join } from '../../src/index.js'
import { EtcdSource, FolderSource, followSource, HttpSource, type Source } from '../../src/sources/index.js'
import { OwnTimers } from '../processes/own-timers.js'
import { until } from '../processes/until.js'

// Node keeps the descriptor of its first watch, which this file would seem to leave.
watch(tmpdir(), { persistent: false }).close()

/** A store with one entry. */
interface Store {
  readonly source: Source
  /** Sets the entry `a`. */
  change(value: number): void
  /** From now on the store cannot be read. */
  fail(): void
  /** Ends the failure. */
  mend(): void
}

async function served(listener: RequestListener): Promise<string> {
  const server = createServer(listener)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  onTestFinished(() => void server.close().closeAllConnections())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Notifications tell of the changes: the interval is longer than the test. */
function folderStore(): Store {
  const parent = mkdtempSync(pathOf(tmpdir(), 'fdb-again-'))
  onTestFinished(() => rmSync(parent, { recursive: true }))
  const [folder, away] = [pathOf(parent, 'folder'), pathOf(parent, 'away')]
  mkdirSync(folder)
  return {
    source: new FolderSource({ folder, interval: 600_000 }),
    change: value => {
      writeFileSync(pathOf(folder, '.a'), `${value}`)
      renameSync(pathOf(folder, '.a'), pathOf(folder, 'a'))
    },
    fail: () => renameSync(folder, away),
    mend: () => renameSync(away, folder),
  }
}

async function httpStore(): Promise<Store> {
  let [value, fails] = [0, false]
  const url = await served((request, response) => {
    const etag = `"${value}"`
    if (fails) response.writeHead(500).end()
    else if (request.headers['if-none-match'] === etag) response.writeHead(304).end()
    else response.writeHead(200, { etag }).end(`{"a":${value}}`)
  })
  return {
    source: new HttpSource({ url, interval: 100 }),
    change: next => void (value = next),
    fail: () => void (fails = true),
    mend: () => void (fails = false),
  }
}

const base64 = (text: string) => Buffer.from(text).toString('base64')

async function etcdStore(): Promise<Store> {
  let [value, revision, fails] = [0, 1, false]
  const watching = new Set<ServerResponse>()
  const header = () => ({ revision: `${revision}`, cluster_id: 'c' })
  const kv = () => ({ key: base64('p/a'), value: base64(`${value}`), mod_revision: `${revision}` })
  const tell = (response: ServerResponse, result: object) =>
    response.write(`${JSON.stringify({ result: { header: header(), ...result } })}\n`)
  const host = await served(async (request, response) => {
    const asked = (await json(request)) as { create_request?: { start_revision: string } }
    if (fails) response.writeHead(503).end('{"message":"away"}')
    else if (asked.create_request !== undefined) {
      watching.add(response.on('close', () => watching.delete(response)))
      tell(response, { created: true })
      // The changes since that revision, in one event.
      if (Number(asked.create_request.start_revision) <= revision) tell(response, { events: [{ kv: kv() }] })
    } else response.end(JSON.stringify({ header: header(), count: '1', kvs: [kv()] }))
  })
  return {
    source: new EtcdSource({ hosts: [host], prefix: 'p/' }),
    change: next => {
      value = next
      revision++
      for (const each of watching) tell(each, { events: [{ kv: kv() }] })
    },
    fail: () => {
      fails = true
      for (const each of watching) each.destroy()
    },
    mend: () => void (fails = false),
  }
}

/** A source changes twice in a round, then fails. */
const ROUNDS = 2

async function follows(kind: string, { source, change, fail, mend }: Store): Promise<void> {
  const member = await join({ service: kind, control: false })
  onTestFinished(() => member.close({ timeout: 0 }))
  const section = member.section('prices', defineSection({ version: 1, codec: codec.json<number>() }))
  let value = 1
  change(value)
  const followed = followSource(member, section, source)
  await member.ready()
  const arrives = () => until(`${kind}: value ${value} arrives`, () => section.get('a') === value)
  await arrives()
  for (let round = 0; round < ROUNDS; round++) {
    for (let n = 0; n < 2; n++) {
      change(++value)
      await arrives()
    }
    fail()
    await until(`${kind}: the failure is told`, () => followed.status.failure !== null)
    mend()
    await until(`${kind}: the source is read again`, () => followed.status.failure === null)
  }
  await member.close({ timeout: 0 })
}

it('a section follows its source as often as that changes or fails, and leaves no timer when its process has left', async () => {
  using timers = new OwnTimers()
  await Promise.all([
    follows('folder', folderStore()),
    follows('http', await httpStore()),
    follows('etcd', await etcdStore()),
  ])
  const ofSources = () => timers.places.filter(place => place.startsWith('sources/'))
  await until(
    'no timer of a source is left',
    () => ofSources().length === 0,
    5_000,
    () => ofSources(),
  )
})
