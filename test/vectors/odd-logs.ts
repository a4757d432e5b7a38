import { FdbError } from '../../src/errors.js'
import { fdbroker } from '../../src/proto/state.js'
import { Digest } from '../../src/state/digest.js'
import { frame } from '../../src/state/segment.js'
import { StateLog } from '../../src/state/state-log.js'
import { segmentOf } from '../fixtures/state-logs.js'
import { type StateVector, sectionsOf } from './state.js'

const { Change, Header, Record: RecordMessage } = fdbroker.state
const { PUT, DELETE } = Change.Op

type Fields = fdbroker.state.Record.$Properties
type Schema = fdbroker.state.SectionSchema.$Properties

export const record = (fields: Fields): Buffer => frame(RecordMessage.encode(fields).finish())
export const header = (epoch: number, kind = 0): Buffer =>
  frame(Header.encode({ magic: 'fdb-state', format: 1, epoch, kind }).finish())
export const put = (key: string, value = key, version = 1) => ({
  section: 'list',
  op: PUT,
  key,
  value: Buffer.from(value),
  version,
})
export const schema = (fields: Schema = {}): Schema => ({
  name: 'list',
  version: 1,
  minReader: 1,
  codec: 'bytes',
  ...fields,
})

export function digestOf(entries: Readonly<Record<string, string>>): string {
  const digest = new Digest()
  for (const [key, value] of Object.entries(entries))
    digest.add(Buffer.from('list'), Buffer.from(key), Buffer.from(value))
  return digest.toString()
}

/** A snapshot of these entries; what it says at its end may be another. */
export function snapshot(
  epoch: number,
  sequence: number,
  entries: Readonly<Record<string, string>>,
  fields: Fields = {},
): Buffer {
  const end = { entries: Object.keys(entries).length, digest: digestOf(entries) }
  const changes = Object.entries(entries).map(([key, value]) => put(key, value))
  return Buffer.concat([
    header(epoch, 1),
    record({ epoch, sequence, schemas: [schema()], changes, end, ...fields }),
  ])
}

interface Given {
  readonly bytes: Buffer
  readonly sealed: boolean
}

const open = (...parts: Buffer[]): Given => ({ bytes: Buffer.concat(parts), sealed: false })
const sealed = (...parts: Buffer[]): Given => ({ bytes: Buffer.concat(parts), sealed: true })

/** Logs with an end that is not whole, snapshots that do not add up, and schemas in every order. */
export async function oddLogs(): Promise<StateVector[]> {
  const first = record({ epoch: 1, sequence: 1, schemas: [schema()], changes: [put('a')] })
  const second = record({ epoch: 1, sequence: 2, changes: [put('b')] })
  const wrong = Buffer.from(second)
  wrong[wrong.length - 1]! ^= 1
  const wrongHeader = header(1)
  wrongHeader[4]! ^= 1
  const next = record({ epoch: 2, sequence: 2, changes: [put('c')] })
  const far = 2 ** 36 + 5
  const many = 2 ** 40
  const part = (sequence: number, index: number, last: boolean, key: string) =>
    record({ epoch: 1, sequence, changes: [put(key)], part: { index, last } })
  const told = (...schemas: Schema[]) =>
    schemas.map((fields, n) => record({ epoch: 1, sequence: n + 1, schemas: [schema(fields)] }))
  const entries = { a: '1', b: '2' }
  const good = { entries: 2, digest: digestOf(entries) }
  const half = (sequence: number, key: string, fields: Fields = {}) =>
    record({ epoch: 3, sequence, changes: [put(key, entries[key as 'a'])], ...fields })
  const logs: Record<string, readonly Given[]> = {
    'a torn last record of a sealed segment': [
      sealed(header(1), first, second.subarray(0, 11)),
      open(header(2), next),
    ],
    'a wrong checksum in the last record of a sealed segment': [
      sealed(header(1), first, wrong),
      open(header(2), next),
    ],
    'a wrong checksum before the last record of a sealed segment': [sealed(header(1), wrong, second)],
    'a wrong checksum before the last record of a segment that is written': [open(header(1), wrong, second)],
    'zeros at the end of a segment': [sealed(header(1), first, Buffer.alloc(20)), open(header(2), next)],
    'a head without a length at the end of a segment': [sealed(header(1), first, Buffer.from([9, 0, 0]))],
    'records behind a segment that is written': [open(header(1), first), open(header(2), next)],
    'a record of another epoch': [open(header(1), first, record({ epoch: 2, sequence: 2 }))],
    'a sequence that is told twice': [
      open(header(1), first, record({ epoch: 1, sequence: 1, changes: [put('z')] })),
    ],
    'a segment of a kind that is not known': [open(header(1, 2))],
    'a header with a wrong checksum': [open(wrongHeader, first)],
    'a snapshot that puts an entry twice': [
      sealed(
        header(3, 1),
        half(7, 'a', { schemas: [schema()] }),
        record({ epoch: 3, sequence: 7, changes: [put('b', 'first')] }),
        half(7, 'b', { end: good }),
      ),
    ],
    'numbers of more than 35 bits': [
      sealed(snapshot(far, many, entries)),
      open(header(far + 1), record({ epoch: far + 1, sequence: many + 1, changes: [put('c')] })),
    ],
    'a snapshot in two records': [
      sealed(header(3, 1), half(7, 'a', { schemas: [schema()] }), half(7, 'b', { end: good })),
    ],
    'a snapshot with another number of entries at its end': [
      sealed(snapshot(3, 7, entries, { end: { ...good, entries: 3 } })),
    ],
    'a snapshot with another digest at its end': [
      sealed(snapshot(3, 7, entries, { end: { ...good, digest: '0'.repeat(64) } })),
    ],
    'a snapshot without an end': [sealed(header(3, 1), half(7, 'a'))],
    'a record behind the end of a snapshot': [
      sealed(header(3, 1), half(7, 'a'), half(7, 'b', { end: good }), record({ epoch: 3, sequence: 7 })),
    ],
    'a snapshot with two sequences': [sealed(header(3, 1), half(7, 'a'), half(8, 'b', { end: good }))],
    'a snapshot behind an epoch': [sealed(header(1), first), sealed(snapshot(3, 7, entries))],
    'a bulk that begins again': [
      open(header(1), ...told({}), part(2, 0, false, 'a'), part(3, 0, false, 'b'), part(4, 1, true, 'c')),
    ],
    'a bulk without its second record': [
      open(header(1), ...told({}), part(2, 0, false, 'a'), part(3, 2, true, 'c')),
    ],
    'a deletion of what is not there, and a put in its place': [
      open(
        header(1),
        first,
        record({
          epoch: 1,
          sequence: 2,
          changes: [{ section: 'list', op: DELETE, key: 'b' }, put('a', 'again')],
        }),
      ),
    ],
    'an older schema behind a newer one': [
      open(header(1), ...told({ version: 3, minReader: 2, codec: 'json' }, { version: 2, codec: 'bytes' })),
    ],
    'a newer schema that would lower the reader': [
      open(header(1), ...told({ version: 2, minReader: 2 }, { version: 3, minReader: 1 })),
    ],
    'a schema that would end a secret': [open(header(1), ...told({ secret: true }, { version: 2 }))],
  }
  return await Promise.all(Object.entries(logs).map(([name, segments]) => readBack(name, segments)))
}

/** The vector of a log, with what this version reads in it. */
async function readBack(name: string, given: readonly Given[]): Promise<StateVector> {
  const segments = given.map(({ bytes, sealed }) => ({ bytes: bytes.toString('hex'), sealed }))
  const log = new StateLog()
  try {
    for (const { bytes, sealed } of given) await log.adopt(segmentOf(bytes, { sealed }))
    return { name, segments, position: { ...log.position }, sections: sectionsOf(log) }
  } catch (error) {
    return { name, segments, error: FdbError.from(error).code }
  }
}
