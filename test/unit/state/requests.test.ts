import { describe, expect, it } from 'vitest'
import { PUT } from '../../../src/state/records.js'
import { encodeImport, Segment, type StateLog } from '../../fixtures/state.js'
import { importRecord, readBy, routeSchema, writingLog } from '../../fixtures/state-logs.js'

const REFUSED = expect.objectContaining({ code: 'ERR_FDB_STATE_REQUEST' })
const to = (name: string) => ({ to: name })

/** Tries requests under an id; checks how often each changed something. */
async function expectKnown(log: StateLog): Promise<void> {
  const routes = log.section('routes', routeSchema)
  const other = log.section('other', routeSchema)
  const { position } = log
  // The same changes, tried again, also with other values.
  await routes.put('a', to('again'), { request: 'put' })
  await routes.delete('gone', { request: 'delete' })
  await routes.bulk(
    [
      { key: 'c', delete: true },
      { key: 'b', value: to('x') },
    ],
    { request: 'bulk' },
  )
  await routes.bulk(many(), { request: 'large' })
  // Other changes.
  const others: [string, () => Promise<unknown>][] = [
    ['another key', () => routes.put('z', to('z'), { request: 'put' })],
    ['another section', () => other.put('a', to('z'), { request: 'put' })],
    ['another kind', () => routes.delete('a', { request: 'put' })],
    ['all entries', () => routes.clear({ request: 'put' })],
    ['a put in the place of a deletion', () => routes.put('gone', to('z'), { request: 'delete' })],
    [
      'more',
      () =>
        routes.bulk(
          [
            { key: 'a', value: to('1') },
            { key: 'z', value: to('2') },
          ],
          { request: 'put' },
        ),
    ],
    ['an update of another entry', () => routes.update('z', () => to('z'), { request: 'put' })],
    ['less', () => routes.put('b', to('z'), { request: 'bulk' })],
    [
      'a large one with one more',
      () => routes.bulk([...many(), { key: 'z', value: to('z') }], { request: 'large' }),
    ],
  ]
  for (const [what, change] of others) await expect(change(), what).rejects.toThrow(REFUSED)
  expect(log.position).toEqual(position)
}

function many() {
  return Array.from({ length: 3000 }, (_, i) => ({ key: `m${i}`, value: to('m') }))
}

describe('a request id belongs to one change', () => {
  async function written() {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('gone', to('x'))
    await routes.put('c', to('x'))
    await routes.put('a', to('a'), { request: 'put' })
    await routes.delete('gone', { request: 'delete' })
    await routes.bulk(
      [
        { key: 'b', value: to('b') },
        { key: 'c', delete: true },
      ],
      { request: 'bulk' },
    )
    await routes.bulk(many(), { request: 'large' })
    return log
  }

  it('for the process that made it', async () => {
    const log = await written()
    await expectKnown(log)
    log.close()
  })

  it('for the next process', async () => {
    const log = await written()
    log.segments[0]!.seal()
    const next = await readBy(log)
    next.startWriting(Segment.create(2))
    await expectKnown(next)
    for (const one of [log, next]) one.close()
  })

  it('after a compaction, for who reads the snapshot', async () => {
    const log = await written()
    log.segments[0]!.seal()
    log.startWriting(Segment.create(2))
    await log.compact()
    expect(log.segments.map(({ kind }) => kind)).toEqual(['snapshot', 'epoch'])
    await expectKnown(log)
    const next = await readBy(log)
    log.segments[1]!.seal()
    next.startWriting(Segment.create(3))
    await expectKnown(next)
    for (const one of [log, next]) one.close()
  })

  it('while the change waits: the same one gets the same answer, another is refused', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    log.pauseWriting()
    const first = routes.put('a', to('1'), { request: 'r' })
    const again = routes.put('a', to('2'), { request: 'r' })
    await expect(routes.put('b', to('3'), { request: 'r' })).rejects.toThrow(REFUSED)
    log.resumeWriting()
    await Promise.all([first, again])
    expect([...routes]).toEqual([['a', to('1')]])
    log.close()
  })

  it('and to whoever made it first, when both waited in two processes', async () => {
    const { log, segment } = writingLog()
    const mine = log.section('routes', routeSchema)
    log.pauseWriting()
    const same = mine.put('a', to('mine'), { request: 'same' })
    const another = mine.put('b', to('mine'), { request: 'another' })
    segment.seal()
    const other = await readBy(log)
    const theirs = Segment.create(2)
    other.startWriting(theirs)
    await other.section('routes', routeSchema).put('a', to('theirs'), { request: 'same' })
    await other.section('routes', routeSchema).put('c', to('theirs'), { request: 'another' })
    await log.adopt(theirs.share())
    theirs.seal()
    await log.catchUp()
    log.startWriting(Segment.create(3))
    await same
    await expect(another).rejects.toThrow(REFUSED)
    expect(new Map(mine)).toEqual(
      new Map([
        ['a', to('theirs')],
        ['c', to('theirs')],
      ]),
    )
    for (const one of [log, other]) one.close()
  })

  it('for imports too', async () => {
    const { log } = writingLog()
    const schema = { name: 'raw', version: 0, minReader: 0, codec: '', secret: false }
    const put = (key: string) => ({ section: 'raw', op: PUT, key, value: Buffer.from('v'), version: 0 })
    const one = encodeImport([schema], [put('a'), put('b')])
    await importRecord(log, one, { request: 'import' })
    const { position } = log
    await importRecord(log, one, { request: 'import' })
    await expect(importRecord(log, one, { request: 'import', replace: true })).rejects.toThrow(REFUSED)
    await expect(
      importRecord(log, encodeImport([schema], [put('a')]), { request: 'import' }),
    ).rejects.toThrow(REFUSED)
    expect(log.position).toEqual(position)
    log.close()
  })
})
