import { fdbroker } from '../../src/proto/state.js'
import { bytes, json } from '../../src/state/codec.js'
import { Digest } from '../../src/state/digest.js'
import type { Position } from '../../src/state/history.js'
import { defineSection } from '../../src/state/schema.js'
import { frame, Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { bytesOf } from '../fixtures/state-logs.js'

const { Record: RecordMessage } = fdbroker.state

/** A log: its segments in order, all but the last one sealed, and what they add up to; or what a reader refuses it with. */
export interface StateVector {
  readonly name: string
  readonly segments: readonly { readonly bytes: string; readonly sealed: boolean }[]
  readonly position?: Position
  readonly sections?: Record<string, SectionVector>
  readonly error?: string
}

export interface SectionVector {
  readonly version: number
  readonly minReader: number
  readonly codec: string
  readonly secret: boolean
  /** Values in base64. */
  readonly entries: Record<string, { readonly value: string; readonly version: number }>
}

export interface DigestVector {
  readonly name: string
  readonly entries: readonly (readonly [section: string, key: string, value: string])[]
  readonly digest: string
}

export const pricesSchema = defineSection<object>({ version: 2, codec: json() })
export const keysSchema = defineSection({ version: 1, minReader: 1, codec: bytes(), secret: true })

export async function stateVectors(): Promise<(StateVector | DigestVector)[]> {
  return [...digests(), ...(await logs()), ...(await refused())]
}

function digests(): DigestVector[] {
  const entries = [
    ['prices', 'apple', '{"cents":50}'],
    ['prices', 'Öl', '{"cents":900}'],
    ['keys', '', ''],
  ] as const
  return [[], entries.slice(0, 1), entries, [...entries].reverse()].map((some, n) => {
    const digest = new Digest()
    for (const [section, key, value] of some)
      digest.add(Buffer.from(section), Buffer.from(key), Buffer.from(value))
    return { name: `digest ${n}`, entries: some, digest: digest.toString() }
  })
}

/** Two epochs of a log, changed in every way. */
async function twoEpochs(): Promise<StateLog> {
  const log = new StateLog()
  const prices = log.section('prices', pricesSchema)
  const keys = log.section('keys', keysSchema)
  const [first, second] = [Segment.create(1), Segment.create(4)]
  log.startWriting(first)
  await prices.put('apple', { cents: 50 })
  await prices.put('Öl', { cents: 900 }, { request: 'request-1' })
  await keys.put('k', Buffer.from([0, 1, 255]))
  await prices.delete('apple')
  await prices.bulk([
    { key: 'pear', value: { cents: 70 } },
    { key: 'plum', value: { cents: 10 } },
    { key: 'pear', delete: true },
  ])
  first.seal()
  log.startWriting(second)
  await prices.put('apple', { cents: 55 })
  await keys.clear()
  return log
}

async function logs(): Promise<StateVector[]> {
  const log = await twoEpochs()
  const both = vectorOf('two epochs', log)
  const [first, last] = log.segments
  const header = bytesOf(first!).subarray(0, first!.start)
  const half = RecordMessage.encode({ epoch: 4, sequence: 9, changes: [] }).finish()
  const tail = Buffer.concat([bytesOf(last!), frame(half).subarray(0, 10)])
  const torn = {
    ...both,
    name: 'half a record at the end',
    segments: [both.segments[0]!, { bytes: tail.toString('hex'), sealed: false }],
  }
  const empty: StateVector = {
    name: 'nothing yet',
    segments: [{ bytes: bytesOf(Segment.create(1)).toString('hex'), sealed: false }],
    position: { epoch: 0, sequence: 0, digest: '0'.repeat(64) },
    sections: {},
  }
  last!.seal()
  log.startWriting(Segment.create(6))
  await log.section('prices', pricesSchema).put('fig', { cents: 30 })
  await log.compact()
  const compacted = vectorOf('a snapshot, and an epoch', log)
  return [empty, both, torn, compacted, ...bulks(header)]
}

/** Records that no log of today would write in so small a number of bytes. */
function bulks(header: Buffer): StateVector[] {
  const change = (key: string) => ({ section: 'list', op: 0, key, value: Buffer.from(key), version: 1 })
  const schemas = [{ name: 'list', version: 1, minReader: 1, codec: 'bytes', secret: false }]
  const part = (sequence: number, index: number, last: boolean, key: string) =>
    frame(
      RecordMessage.encode({
        epoch: 1,
        sequence,
        changes: [change(key)],
        part: { index, last },
        ...(last && { schemas, request: 'bulk-1' }),
      }).finish(),
    )
  const whole = [part(1, 0, false, 'a'), part(2, 1, false, 'b'), part(3, 2, true, 'c')]
  const givenUp = [
    part(1, 0, false, 'a'),
    part(2, 1, false, 'b'),
    frame(RecordMessage.encode({ epoch: 1, sequence: 3, changes: [change('z')], schemas }).finish()),
  ]
  const of = (name: string, frames: Buffer[], keys: readonly string[]): StateVector => ({
    name,
    segments: [{ bytes: Buffer.concat([header, ...frames]).toString('hex'), sealed: false }],
    position: { epoch: 1, sequence: 3, digest: digestOf(keys) },
    sections: {
      list: {
        version: 1,
        minReader: 1,
        codec: 'bytes',
        secret: false,
        entries: Object.fromEntries(
          keys.map(key => [key, { value: Buffer.from(key).toString('base64'), version: 1 }]),
        ),
      },
    },
  })
  return [
    of('a bulk in three records', whole, ['a', 'b', 'c']),
    of('a bulk that was given up', givenUp, ['z']),
    {
      ...of('a bulk whose last record has not come', whole.slice(0, 2), []),
      position: { epoch: 1, sequence: 2, digest: digestOf([]) },
      sections: {},
    },
  ]
}

function digestOf(keys: readonly string[]): string {
  const digest = new Digest()
  for (const key of keys) digest.add(Buffer.from('list'), Buffer.from(key), Buffer.from(key))
  return digest.toString()
}

async function refused(): Promise<StateVector[]> {
  const log = await twoEpochs()
  const [first, last] = log.segments.map(bytesOf) as [Buffer, Buffer]
  const damaged = Buffer.from(first)
  const at = log.segments[0]!.start + 12
  damaged[at] = damaged[at]! ^ 1
  const later = Buffer.concat([
    last,
    frame(RecordMessage.encode({ epoch: 4, sequence: 12, changes: [] }).finish()),
  ])
  const unknownOp = Buffer.concat([
    last,
    frame(
      RecordMessage.encode({
        epoch: 4,
        sequence: 8,
        changes: [{ section: 'x', op: 7 as number as fdbroker.state.Change.Op }],
      }).finish(),
    ),
  ])
  const of = (name: string, segments: Buffer[], error: string): StateVector => ({
    name,
    segments: segments.map((one, n) => ({ bytes: one.toString('hex'), sealed: n < segments.length - 1 })),
    error,
  })
  const header = fdbroker.state.Header.encode({ magic: 'fdb-state', format: 2, epoch: 1 }).finish()
  return [
    of('no segment', [Buffer.from('GET / HTTP/1.1\r\n')], 'ERR_FDB_STATE_FORMAT'),
    of('a later format', [frame(header)], 'ERR_FDB_STATE_FORMAT'),
    of('a record changed under its checksum', [damaged, last], 'ERR_FDB_STATE_DAMAGED'),
    of('records missing', [first, later], 'ERR_FDB_STATE_DAMAGED'),
    of('a change of a kind that is not known', [first, unknownOp], 'ERR_FDB_STATE_FORMAT'),
    of('epochs out of order', [first, first], 'ERR_FDB_STATE_ORDER'),
  ]
}

export function sectionsOf(log: StateLog): Record<string, SectionVector> {
  return Object.fromEntries(
    log.schemas().map(({ name, ...schema }) => {
      const section = log.rawSection(name)
      const entries = [...section.keys()].sort().map(key => {
        const { value, version } = section.get(key)!
        return [key, { value: Buffer.from(value).toString('base64'), version }] as const
      })
      return [name, { ...schema, entries: Object.fromEntries(entries) }]
    }),
  )
}

function vectorOf(name: string, log: StateLog): StateVector {
  return {
    name,
    segments: log.segments.map(segment => ({
      bytes: bytesOf(segment).toString('hex'),
      sealed: segment.sealed,
    })),
    position: { ...log.position },
    sections: sectionsOf(log),
  }
}
