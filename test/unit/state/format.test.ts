import { describe, expect, it } from 'vitest'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { fdbroker } from '../../../src/proto/state.js'
import { changePrefix, encodeBody, encodeEnvelope, encodeSchema } from '../../../src/state/records.js'
import { frame } from '../../../src/state/segment.js'
import { Segment, StateLog } from '../../fixtures/state.js'

const { Header } = fdbroker.state
/** A segment as a later version may write it. */
function segmentOf(format: number, ...records: Uint8Array[][]): Segment {
  const header = Header.encode({ magic: 'fdb-state', format, epoch: 1, kind: Header.Kind.EPOCH }).finish()
  const bytes = Buffer.concat([frame(header), ...records.map(parts => frame(...parts))])
  const raw = native.memfd('later')
  native.pwrite(raw, bytes, 0, bytes.length, 0)
  const segment = Segment.open(OwnedFd.own(raw, 'later'))
  segment.seal()
  return segment
}

const place = (sequence: number) => encodeEnvelope({ epoch: 1, sequence })
const put = (op: number) => encodeBody([{ section: 's', op, key: 'k', value: Buffer.from('v'), version: 1 }])
const schema = encodeSchema({ name: 's', version: 1, minReader: 1, codec: 'bytes', secret: false })
/** Field 20, a number. */
const UNKNOWN = Uint8Array.of(0xa0, 1, 7)

describe('a log of a later version', () => {
  it('causes an error as a whole where its format is higher, with the remedy', () => {
    expect(() => segmentOf(2)).toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_STATE_FORMAT',
        message: 'the segment has format 2, this version reads 1 to 1; use a newer fd-broker',
      }),
    )
  })

  it('causes an error at an unknown operation', async () => {
    const log = new StateLog()
    const records = [
      [place(1), schema, put(0)],
      [place(2), put(3)],
    ]
    await expect(log.adopt(segmentOf(1, ...records))).rejects.toThrow(
      expect.objectContaining({
        code: 'ERR_FDB_STATE_FORMAT',
        message: expect.stringContaining('(sequence 2) has a change of kind 3'),
      }),
    )
    log.close()
  })

  it('reads without unknown fields, which a compaction keeps in the entries', async () => {
    const log = new StateLog()
    const change = Buffer.from(put(0))
    // A field in the change, whose length stands in its second byte, and one in the record.
    change.writeUInt8(change[1]! + UNKNOWN.length, 1)
    const record = [place(1), schema, change, UNKNOWN, UNKNOWN]
    await log.adopt(segmentOf(1, record))
    log.startWriting(Segment.create(2))
    await log.section('s').put('other', Buffer.from('x'))
    const { digest } = log.position
    const [snapshot] = await log.compact()
    expect(snapshot?.kind).toBe('snapshot')
    expect(log.position.digest).toBe(digest)
    const bytes = Buffer.alloc(snapshot!.size())
    native.pread(snapshot!.fd.raw, bytes, 0, bytes.length, 0)
    expect(bytes.includes(Buffer.concat([change, UNKNOWN]))).toBe(true)
    expect(log.rawSection('s').get('k')?.value.toString()).toBe('v')
    log.close()
  })
})

it('skips a field of any kind that it does not know, in a record and in a change', async () => {
  const long = Buffer.alloc(300, 1)
  const fields = Buffer.concat([
    UNKNOWN,
    // Field 20: bytes of a length of one byte and of two, 8 bytes, 4 bytes.
    Uint8Array.of(0xa2, 1, 3, 8, 9, 10),
    Uint8Array.of(0xa2, 1, 0xac, 2),
    long,
    Uint8Array.of(0xa1, 1, 1, 2, 3, 4, 5, 6, 7, 8),
    Uint8Array.of(0xa5, 1, 1, 2, 3, 4),
  ])
  const change = Buffer.concat([fields, Buffer.from(put(0)).subarray(2), fields])
  const body = Buffer.concat([changePrefix(change.length), change])
  const log = new StateLog()
  await log.adopt(segmentOf(1, [place(1), fields, schema, body, fields]))
  expect([log.sequence, Buffer.from(log.section('s').get('k')!).toString()]).toEqual([1, 'v'])
  log.close()
})
