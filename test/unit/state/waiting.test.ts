import { setImmediate as nextTurn } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { Segment, type StateLog } from '../../fixtures/state.js'
import { type Route, readBy, routeSchema, writingLog } from '../../fixtures/state-logs.js'

const to = (name: string): Route => ({ to: name })
const code = (expected: string) => expect.objectContaining({ code: expected })

describe('between a change that is not awaited and its acknowledgement', () => {
  it('a read of a process that writes sees it: nothing waits', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    const put = routes.put('a', to('x'))
    expect([routes.waiting, routes.get('a')]).toEqual([0, to('x')])
    await routes.settled()
    await put
    log.close()
  })

  it('reads of a process that is frozen do not: it waits, and is seen when it is settled', async () => {
    const { log } = writingLog()
    const [routes, other] = [log.section('routes', routeSchema), log.section('other')]
    await routes.put('a', to('before'))
    log.pauseWriting()
    const made = [routes.put('a', to('after')), routes.delete('b'), routes.update('a', one => one)]
    expect([routes.waiting, other.waiting]).toEqual([3, 3])
    expect([routes.get('a'), routes.size, [...routes]]).toEqual([to('before'), 1, [['a', to('before')]]])
    let settled = false
    const settling = routes.settled().then(() => {
      settled = true
    })
    await nextTurn()
    expect(settled).toBe(false)
    log.resumeWriting()
    await settling
    expect([routes.waiting, routes.get('a')]).toEqual([0, to('after')])
    await Promise.all(made)
    log.close()
  })

  it('settled() waits for no change that is made later, and does not tell what was refused', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    log.pauseWriting()
    const refused = routes.put('a', to('x'))
    const settling = routes.settled()
    log.endWriting(new FdbError('ERR_FDB_FENCED', 'another serves'))
    await expect(refused).rejects.toThrow(code('ERR_FDB_FENCED'))
    await settling
    expect([routes.waiting, routes.has('a')]).toEqual([0, false])
    log.startWriting(log.segments[0]!)
    log.pauseWriting()
    const first = routes.put('a', to('first'))
    const early = routes.settled()
    log.resumeWriting()
    await first
    log.pauseWriting()
    const later = routes.put('a', to('later'))
    await early
    expect([routes.waiting, routes.get('a')]).toEqual([1, to('first')])
    log.resumeWriting()
    await later
    log.close()
  })

  it('reads do not while a large bulk is appended, and both are seen in their order', async () => {
    const { log } = writingLog({ sliceMs: 0.1 })
    const raw = log.section('raw')
    const bulk = raw.bulk(
      Array.from({ length: 5000 }, (_, i) => ({ key: `k${i}`, value: Buffer.alloc(100) })),
    )
    while (log.sequence === 0) await nextTurn()
    const put = raw.put('k7', Buffer.from('new'))
    expect([raw.waiting, raw.has('k7')]).toEqual([2, false])
    await raw.settled()
    expect([raw.waiting, raw.get('k7')?.toString(), raw.size]).toEqual([0, 'new', 5000])
    await Promise.all([bulk, put])
    log.close()
  })

  it('reads do not before this process writes; to wait for that before ready() rejects', async () => {
    const { log } = writingLog()
    await log.section('routes', routeSchema).put('a', to('old'))
    const successor: StateLog = await readBy(log)
    successor.prematureError = () => new FdbError('ERR_FDB_NOT_READY', 'await it after ready()')
    const routes = successor.section('routes', routeSchema)
    await routes.settled()
    const put = routes.put('a', to('new'))
    expect([routes.waiting, routes.get('a')]).toEqual([1, to('old')])
    await expect(routes.settled()).rejects.toThrow(code('ERR_FDB_NOT_READY'))
    log.segments[0]!.seal()
    await successor.catchUp()
    successor.startWriting(Segment.create(2))
    await routes.settled()
    expect(routes.get('a')).toEqual(to('new'))
    await put
    for (const one of [log, successor]) one.close()
  })

  it('reads of a process that drains do not, until the one that writes has made it', async () => {
    const { log } = writingLog()
    const routes = log.section('routes', routeSchema)
    await routes.put('a', to('before'))
    log.pauseWriting()
    const writer = await readBy(log)
    log.segments[0]!.seal()
    await writer.catchUp()
    const segment = Segment.create(2)
    writer.startWriting(segment)
    const refusal = new FdbError('ERR_FDB_FENCED', 'another serves')
    const forwarding = log.forwardWriting({ timeoutMs: 5000, refusal })
    await log.adopt(segment.readOnly())
    log.follow()
    const put = routes.put('a', to('after'))
    expect([routes.waiting, routes.get('a')]).toEqual([1, to('before')])
    forwarding.connect({
      send: (number, write) => {
        const arriving = writer.incoming()
        for (const part of write.parts) arriving.add(part)
        void writer.accept(arriving, write).then(answer => forwarding.onAnswer(number, answer))
      },
    })
    await routes.settled()
    expect([routes.waiting, routes.get('a')]).toEqual([0, to('after')])
    await put
    for (const one of [log, writer]) one.close()
  })
})
