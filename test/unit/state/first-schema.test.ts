import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { type RouteMessage, routesSection, targetOf } from '../../../src/proxy/routes/section.js'
import { messageType } from '../../fixtures/message-type.js'
import {
  defineSection,
  json,
  msgpack,
  type Position,
  protobuf,
  type SectionSchema,
  Segment,
  StateLog,
} from '../../fixtures/state.js'
import { segmentOf } from '../../fixtures/state-logs.js'

const FOLDER = new URL('../../fixtures/first-schema/', import.meta.url)

interface Entry {
  version: number
  base64: string
  decoded: unknown
}

interface Fixture {
  files: string[]
  position: Position
  torn: boolean
  requests: string[]
  sections: {
    name: string
    version: number
    minReader: number
    codec: string
    secret: boolean
    entries: Record<string, Entry>
  }[]
}

const NAMES = ['application', 'bulk', 'bulk-given-up', 'compacted', 'compacted-again', 'routes', 'torn']

function fixture(name: string): Fixture {
  return JSON.parse(readFileSync(new URL(`${name}.json`, FOLDER), 'utf8')) as Fixture
}

async function read({ files }: Fixture): Promise<StateLog> {
  const log = new StateLog()
  for (const [at, file] of files.entries()) {
    await log.adopt(segmentOf(readFileSync(new URL(file, FOLDER)), { sealed: at < files.length - 1 }))
  }
  return log
}

function entriesOf(log: StateLog, name: string): Record<string, Omit<Entry, 'decoded'>> {
  const section = log.rawSection(name)
  return Object.fromEntries(
    [...section.keys()].map(key => {
      const { value, version } = section.get(key)!
      return [key, { version, base64: Buffer.from(value).toString('base64') }]
    }),
  )
}

function expectAll(log: StateLog, { sections }: Fixture): void {
  const schemas = sections.map(({ entries, ...schema }) => schema)
  expect(log.schemas()).toEqual(schemas.sort((a, b) => (a.name < b.name ? -1 : 1)))
  for (const { name, entries } of sections) {
    const stored = Object.entries(entries).map(([key, { version, base64 }]) => [key, { version, base64 }])
    expect(entriesOf(log, name)).toEqual(Object.fromEntries(stored))
  }
}

interface Item {
  name: string
  cents: number
  tags: string[]
}

const itemType = messageType<Item>('Item', 'string name = 1; uint32 cents = 2; repeated string tags = 3;')

const items = defineSection<Item>({
  version: 2,
  codec: protobuf(itemType),
  migrate: item => {
    if (item.tags.length === 0) item.tags = ['migrated']
    return item
  },
})

/** The schemas with which they were written, as the present version has them. */
const SCHEMAS: Record<string, SectionSchema<unknown>> = {
  routes: routesSection as SectionSchema<unknown>,
  sessions: defineSection({ version: 1, codec: msgpack() }),
  keys: defineSection({ version: 3, codec: json(), secret: true }),
  items: items as SectionSchema<unknown>,
}

function plain(section: string, value: unknown): unknown {
  if (section === 'items') return { ...(value as Item) }
  if (section !== 'routes') return value
  const message = value as RouteMessage
  return { target: targetOf(message), created: message.created, generation: message.generation }
}

describe('a log that the first version of the format wrote', () => {
  it('exists for each of these', () => {
    const kept = readdirSync(FOLDER).flatMap(file => (file.endsWith('.json') ? file.slice(0, -5) : []))
    expect(new Set(kept)).toEqual(new Set(NAMES))
  })

  describe.each(NAMES)('(%s)', name => {
    const expected = fixture(name)

    it('reads as exactly what it read as then: sections, keys, bytes, versions, digest', async () => {
      const log = await read(expected)
      expect(log.position).toEqual(expected.position)
      expectAll(log, expected)
      log.close()
    })

    it('decodes to the same values, older ones brought forward', async () => {
      const log = await read(expected)
      for (const { name: section, entries } of expected.sections) {
        const schema = SCHEMAS[section]
        if (schema === undefined) continue
        const values = log.section(section, schema)
        for (const [key, { decoded }] of Object.entries(entries)) {
          expect([key, plain(section, values.get(key))]).toEqual([key, decoded])
        }
      }
      expect(log.position).toEqual(expected.position)
      log.close()
    })

    it('continues, half a record at its end cut off, and compacts: nothing of it is lost', async () => {
      const log = await read(expected)
      const last = log.segments.at(-1)!
      if (last.kind === 'snapshot') log.startWriting(Segment.create(last.epoch + 1))
      else log.startWriting(last)
      expect(log.segments.at(-1)!.size()).toBe(log.segments.at(-1)!.end)
      // A request of then is not done again, whatever is asked under its id.
      for (const request of expected.requests) {
        const again = log.section('more').put('again', Buffer.from('x'), { request })
        await again.catch(error => expect(error.code).toBe('ERR_FDB_STATE_REQUEST'))
      }
      expect(log.position).toEqual(expected.position)
      for (const segment of log.segments) if (!segment.sealed) segment.seal()
      log.startWriting(Segment.create(log.segments.at(-1)!.epoch + 1))
      await log.section('more').put('k', Buffer.from('v'))
      await log.compact()
      expect(log.segments.map(segment => segment.kind)).toEqual(['snapshot', 'epoch'])
      const again = new StateLog()
      for (const segment of log.segments.map(one => one.readOnly())) await again.adopt(segment)
      expect(again.position).toEqual(log.position)
      expect(again.position.sequence).toBe(expected.position.sequence + 1)
      expect(again.rawSection('more').get('k')?.value.toString()).toBe('v')
      again.close()
      log.startWriting(log.segments.at(-1)!)
      await log.section('more').delete('k')
      expect(log.position.digest).toBe(expected.position.digest)
      log.close()
    })
  })

  it('causes an error, by section, versions and remedy, where its lowest reader is above this version', async () => {
    const log = await read(fixture('application'))
    expect(() => log.section('keys', defineSection({ version: 1, codec: json() }))).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_SCHEMA',
        message: expect.stringMatching(
          /^section "keys" was written with schema version 3, which needs a reader of version 2 or newer; this process has version 1\. Run a release (with|that has) version 2 or newer/,
        ),
      }),
    )
    expect(() => log.section('later', defineSection({ version: 10, codec: json() }))).toThrow(
      'section "later" was written with codec "cbor" (schema version 9); this process has "json" (version 10)',
    )
    log.close()
  })
})
