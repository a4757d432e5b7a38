import { createHash } from 'node:crypto'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { FdbError } from '../../src/errors.js'
import { WriteReceiver } from '../../src/member/state/write-receiver.js'
import { fdbroker } from '../../src/proto/state.js'
import type { fdbroker as wire } from '../../src/proto/wire.js'
import { bytes } from '../../src/state/codec.js'
import { defineSection } from '../../src/state/schema.js'
import { Segment } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { segmentOf } from '../fixtures/state-logs.js'
import { jsonOf } from './messages.js'
import { header, put, record, schema, snapshot } from './odd-logs.js'
import { type SectionVector, sectionsOf } from './state.js'

const { Change, Record: RecordMessage } = fdbroker.state

type Write = wire.wire.Write.$Properties
type Written = wire.wire.Written.$Properties
type Fields = fdbroker.state.Record.$Properties

/**
 * A member that serves gets Writes. The member has read `segments`, which are sealed, uses the section `list` with version 2, and writes in an empty
 * segment of `epoch`. Steps: a Write, and the answer to it if it is the last one of its number; `ends`: the member loses the right to
 * write; `begins`: the member writes in an empty segment of that epoch.
 */
export interface WriteVector {
  readonly name: string
  readonly segments: readonly string[]
  readonly epoch: number
  readonly steps: readonly Step[]
  readonly sequence: number
  readonly digest: string
  readonly sections: Record<string, SectionVector>
}

type Step =
  | { readonly write: object; readonly written?: object }
  | { readonly ends: true }
  | { readonly begins: number }
type Given = Write | { readonly ends: true } | { readonly begins: number }

const EPOCH = 5
const part = (fields: Fields) => Buffer.from(RecordMessage.encode(fields).finish())
const puts = (...keys: string[]) => part({ changes: keys.map(key => put(key, 'new')) })
const deletion = (key: string) => ({ section: 'list', op: Change.Op.DELETE, key })
const asks = (number: number, request: string, parts: Uint8Array[], more: Write = {}): Write => ({
  number,
  request,
  parts,
  ...more,
})

/** An entry as its author has read it. */
function read(key: string, value?: string, version = 1) {
  const mark = value === undefined ? [] : createHash('sha256').update(`${version} ${value}`).digest()
  return { section: 'list', key, mark: Buffer.from(mark).subarray(0, 16) }
}

/** Before: `a` and `b` in a snapshot that knows a request, `c` with a request of its own, `d` and `e` in a bulk. */
const LOG: readonly Buffer[] = [
  snapshot(3, 7, { a: '1', b: '2' }, { requests: ['in-the-snapshot'] }),
  Buffer.concat([
    header(4),
    record({ epoch: 4, sequence: 8, request: 'in-a-record', changes: [put('c', '3')] }),
    record({ epoch: 4, sequence: 9, changes: [put('d', '4')], part: { index: 0 } }),
    record({
      epoch: 4,
      sequence: 10,
      request: 'in-a-bulk',
      changes: [put('e', '5')],
      part: { index: 1, last: true },
    }),
  ]),
]

const CASES: Record<string, readonly Given[]> = {
  'a request that comes twice is made once': [
    asks(1, 'r', [puts('x')]),
    asks(2, 'r', [puts('x')]),
    asks(3, 'other', [puts('z')]),
  ],
  'requests that the log has are not made again': [
    asks(1, 'in-the-snapshot', [puts('x')]),
    asks(2, 'in-a-record', [part({ changes: [put('c', '3')] })]),
    asks(3, 'in-a-bulk', [part({ changes: [put('d', '4'), put('e', '5')] })]),
    asks(4, 'new', [puts('y')]),
  ],
  'AGAIN stays for the source that got it': [
    { ends: true },
    asks(1, 'r1', [puts('x')], { source: 1 }),
    { begins: EPOCH + 1 },
    asks(2, 'r2', [puts('y')], { source: 1 }),
    asks(1, 'r3', [puts('z')], { source: 2 }),
    asks(1, 'r1', [puts('x')], { source: 3 }),
    asks(2, 'r2', [puts('y')], { source: 3 }),
  ],
  'a change is made if what it has read is unchanged': [
    asks(1, 'same', [puts('a')], { reads: [read('a', '1'), read('none')] }),
    asks(2, 'another value', [puts('b')], { reads: [read('b', '1')] }),
    asks(3, 'another version', [puts('b')], { reads: [read('b', '2', 2)] }),
    asks(4, 'gone', [puts('x')], { reads: [read('x', '1')] }),
    asks(5, 'there by now', [puts('b')], { reads: [read('b')] }),
    asks(6, 'one of two', [puts('b')], { reads: [read('b', '2'), read('a', '1')] }),
    asks(7, 'another section', [puts('b')], { reads: [{ ...read('b', '2'), section: 'other' }] }),
    asks(8, 'reads alone', [], { reads: [read('b', '2')] }),
    asks(9, 'reads alone, changed', [], { reads: [read('b', '1')] }),
    asks(10, 'gone', [puts('x')], { reads: [read('x')] }),
  ],
  'a change in pieces is made with its last one': [
    asks(1, 'p', [puts('x')], { more: true }),
    asks(1, 'q', [puts('y')], { more: true, source: 9 }),
    asks(2, 'alone', [puts('z')]),
    asks(1, 'p', [puts('w')], { reads: [read('z', 'new')] }),
    asks(1, 'q', [], { source: 9, reads: [read('z')] }),
  ],
  'a change that is withdrawn leaves nothing': [
    asks(1, 'p', [puts('x')], { more: true }),
    asks(1, '', []),
    asks(1, 'q', [puts('y')]),
  ],
  'one deletion says whether the entry was there': [
    asks(1, 'r1', [part({ changes: [deletion('a')] })]),
    asks(2, 'r2', [part({ changes: [deletion('a')] })]),
    asks(3, 'r3', [part({ changes: [deletion('b'), deletion('c')] })]),
    asks(4, 'r4', [part({ changes: [{ section: 'list', op: Change.Op.CLEAR }] })]),
  ],
  'a part that says where it stands is refused': [
    asks(1, 'r1', [part({ epoch: EPOCH, changes: [put('x')] })]),
    asks(2, 'r2', [part({ sequence: 11, changes: [put('x')] })]),
    asks(3, 'r3', [part({ request: 'x', changes: [put('x')] })]),
    asks(4, 'r4', [part({ requests: ['x'], changes: [put('x')] })]),
    asks(5, 'r5', [part({ end: { entries: 1 }, changes: [put('x')] })]),
    asks(6, 'r6', [part({ part: { index: 0, last: true }, changes: [put('x')] })]),
    asks(7, 'r7', [puts('y'), part({ epoch: EPOCH, changes: [put('x')] })]),
  ],
  'what nobody could read is refused': [
    asks(1, 'r1', [part({ changes: [{ ...put('x'), section: 'unknown' }] })]),
    asks(2, 'r2', [part({ changes: [put('x', 'x', 3)] })]),
    asks(3, 'r3', [part({ schemas: [schema({ codec: 'json' })], changes: [put('x')] })]),
    asks(4, 'r4', [part({ schemas: [schema({ version: 3, minReader: 3 })], changes: [put('x', 'x', 3)] })]),
    asks(5, 'r5', [
      part({ changes: [{ section: 'list', op: 7 as number as fdbroker.state.Change.Op, key: 'x' }] }),
    ]),
    asks(6, 'r6', [Buffer.from('0a', 'hex')]),
    asks(7, 'r7', []),
  ],
  'a schema of the process that writes is enough, and is written': [
    asks(1, 'r1', [part({ changes: [put('x', 'x', 2)] })]),
    asks(2, 'r2', [part({ changes: [put('y', 'y', 2)] })]),
  ],
  'a schema may come with its change, or before it': [
    asks(1, 'r1', [part({ schemas: [schema({ version: 2, minReader: 2 })], changes: [put('x', 'x', 2)] })]),
    asks(2, 'r2', [
      part({ schemas: [schema({ name: 'more' })] }),
      part({ changes: [{ ...put('x'), section: 'more' }] }),
    ]),
    asks(3, 'r3', [part({ changes: [{ ...put('y'), section: 'more' }] })]),
  ],
}

export async function writeVectors(): Promise<WriteVector[]> {
  const all: WriteVector[] = []
  for (const [name, given] of Object.entries(CASES)) all.push(await vectorOf(name, given))
  return all
}

async function vectorOf(name: string, given: readonly Given[]): Promise<WriteVector> {
  const { log, begin, end, write } = await receiver(LOG, EPOCH)
  const steps: Step[] = []
  for (const one of given) {
    if ('ends' in one) end()
    else if ('begins' in one) begin(one.begins)
    if ('ends' in one || 'begins' in one) {
      steps.push(one)
      continue
    }
    const written = await write(one)
    steps.push({ write: jsonOf(one) as object, ...(written && { written: jsonOf(written) as object }) })
  }
  const { sequence, digest } = log.position
  const segments = LOG.map(segment => segment.toString('hex'))
  return { name, segments, epoch: EPOCH, steps, sequence, digest, sections: sectionsOf(log) }
}

/** A member's part in what a vector says. */
export async function receiver(segments: readonly Uint8Array[], epoch: number) {
  const log = new StateLog()
  log.section('list', defineSection({ version: 2, minReader: 1, codec: bytes() }))
  for (const segment of segments) await log.adopt(segmentOf(segment, { sealed: true }))
  let writing = Segment.create(epoch)
  log.startWriting(writing)
  let written: Written | undefined
  const incoming = new WriteReceiver(log, body => {
    written = body.written ?? undefined
  })
  return {
    log,
    end: () => {
      writing.seal()
      log.endWriting(new FdbError('ERR_FDB_FENCED', 'another process serves'))
    },
    begin: (epoch: number) => {
      writing = Segment.create(epoch)
      log.startWriting(writing)
    },
    /** The answer as vectors have it. */
    write: async (asked: Write): Promise<Written | undefined> => {
      written = undefined
      incoming.receive(asked)
      for (let turns = 0; turns < 4; turns++) await nextTurn()
      if (written === undefined) return undefined
      const { message, retryable, ...facts } = written as Written
      return facts
    },
  }
}
