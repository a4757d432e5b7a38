import { describe, expect, it, onTestFinished } from 'vitest'
import { OperatorClient } from '../../../src/operator/client.js'
import {
  ServiceState,
  type StateChange,
  type StateWatchOptions,
} from '../../../src/operator/service-state.js'
import { serveStateCommands } from '../../../src/state/commands.js'
import { bytes, defineSection, json, Segment, StateLog } from '../../fixtures/state.js'
import { untyped } from '../../fixtures/untyped.js'

const validate = (count: number) => {
  if (count < 0) throw new RangeError('less than none')
}
const countsOf = (log: StateLog) => log.section('counts', COUNTS)
const COUNTS = defineSection<number>({ version: 3, codec: json(), validate })
const KEYS = defineSection({ version: 1, codec: bytes(), secret: true })
const code = (expected: string) => expect.objectContaining({ code: expected })

function writing(epoch = 1): StateLog {
  const log = new StateLog()
  log.startWriting(Segment.create(epoch))
  onTestFinished(() => log.close())
  return log
}

/** Continues the log in a segment of this epoch. */
function goOn(log: StateLog, epoch: number): void {
  log.segments.at(-1)!.seal()
  log.startWriting(Segment.create(epoch))
}

/** As it is asked over a control socket. */
function asking(log: () => StateLog): ServiceState {
  return new ServiceState(async (command, body) => {
    const handlers = new Map<string, (body: Buffer) => Promise<Uint8Array | string>>()
    serveStateCommands((name, handler) => handlers.set(name, handler), log())
    const reply = await handlers.get(command)!(
      typeof body === 'string' ? Buffer.from(body) : Buffer.from(body),
    )
    return typeof reply === 'string' ? Buffer.from(reply) : Buffer.from(reply)
  })
}

const text = (change: StateChange | undefined) =>
  change?.op === 'put' ? { ...change, value: Buffer.from(change.value).toString() } : change

/** The next change of a watch that goes on. */
function watching(state: ServiceState, options: StateWatchOptions) {
  const changes = state.watch(options)
  onTestFinished(() => void changes.return())
  return async () => text((await changes.next()).value ?? undefined)
}

const put = (key: string, value: string, section = 'counts', version = 3) => ({
  op: 'put',
  section,
  key,
  value,
  version,
})

describe('an operator', () => {
  it('reads the state of a process that follows another one', async () => {
    const log = writing()
    const counts = countsOf(log)
    await counts.put('a', 1)
    const follower = new StateLog()
    onTestFinished(() => follower.close())
    await follower.adopt(log.segments[0]!.readOnly())
    follower.follow()
    await counts.put('b', 2)
    const entries = await asking(() => follower).list('counts')
    expect(entries.map(({ key }) => key)).toEqual(['a', 'b'])
  })

  it('puts bytes as they are, where the section of who serves takes them', async () => {
    const log = writing()
    const counts = countsOf(log)
    const state = asking(() => log)
    expect(await state.sections()).toEqual([
      { name: 'counts', version: 3, minReader: 1, codec: 'json', secret: false, entries: 0 },
    ])
    expect(await state.list('counts')).toEqual([])
    await state.put('counts', 'a', Buffer.from(' 1'))
    expect(counts.get('a')).toBe(1)
    expect(await state.get('counts', 'a')).toEqual({
      section: 'counts',
      key: 'a',
      value: Buffer.from(' 1'),
      version: 3,
    })
    for (const wrong of ['{', '-1']) {
      await expect(state.put('counts', 'a', Buffer.from(wrong))).rejects.toThrow(code('ERR_FDB_STATE_VALUE'))
    }
    expect(counts.get('a')).toBe(1)
    expect(await state.delete('counts', 'a')).toBe(true)
    expect(await state.delete('counts', 'a')).toBe(false)
    expect(await state.get('counts', 'a')).toBeUndefined()
    for (const asked of [
      state.put('count', 'a', Buffer.from('1')),
      state.delete('count', 'a'),
      state.get('count', 'a'),
    ]) {
      await expect(asked).rejects.toThrow(code('ERR_FDB_STATE_NO_ENTRY'))
    }
    await expect(state.list('count')).rejects.toThrow(/there are: counts/)
    expect((await state.sections()).map(({ name }) => name)).toEqual(['counts'])
    await expect(state.put('counts', 'a', untyped('1'))).rejects.toThrow(code('ERR_FDB_OPTION'))
  })

  it('puts bytes of the version that the log says into a section that who serves has not registered', async () => {
    const writer = writing()
    await countsOf(writer).put('a', 1)
    writer.section('raw')
    const log = new StateLog()
    onTestFinished(() => log.close())
    goOn(writer, 2)
    await log.adopt(writer.segments[0]!.readOnly())
    log.startWriting(Segment.create(3))
    const state = asking(() => log)
    await state.put('counts', 'b', Buffer.from('2'))
    expect(await state.list()).toEqual([
      { section: 'counts', key: 'a', value: Buffer.from('1'), version: 3 },
      { section: 'counts', key: 'b', value: Buffer.from('2'), version: 3 },
    ])
    expect(countsOf(log).get('b')).toBe(2)
  })

  it('makes a change once under one request id', async () => {
    const log = writing()
    const counts = countsOf(log)
    const state = asking(() => log)
    await state.put('counts', 'a', Buffer.from('1'), { request: 'r' })
    await counts.put('a', 2)
    await state.put('counts', 'a', Buffer.from('1'), { request: 'r' })
    expect(counts.get('a')).toBe(2)
    await expect(state.put('counts', 'b', Buffer.from('1'), { request: 'r' })).rejects.toThrow(
      code('ERR_FDB_STATE_REQUEST'),
    )
    await state.delete('counts', 'a', { request: 'd' })
    await counts.put('a', 3)
    expect(await state.delete('counts', 'a', { request: 'd' })).toBe(true)
    expect(counts.get('a')).toBe(3)
  })

  it('sees what is secret where he says so', async () => {
    const log = writing()
    await countsOf(log).put('a', 1)
    await log.section('keys', KEYS).put('k', Buffer.from('hidden'))
    const state = asking(() => log)
    expect((await state.list()).map(({ section }) => section)).toEqual(['counts'])
    expect((await state.list(undefined, { secrets: true })).map(({ key }) => key)).toEqual(['a', 'k'])
    const secret = code('ERR_FDB_STATE_SECRET')
    await expect(state.list('keys')).rejects.toThrow(secret)
    await expect(state.get('keys', 'k')).rejects.toThrow(secret)
    await expect(state.watch({ section: 'keys' }).next()).rejects.toThrow(secret)
    expect((await state.get('keys', 'k', { secrets: true }))?.value).toEqual(Buffer.from('hidden'))
    const next = watching(state, { initial: true })
    expect(await next()).toEqual(put('a', '1'))
    await log.section('keys').put('l', Buffer.from('more'))
    await countsOf(log).put('b', 2)
    expect(await next()).toEqual(put('b', '2'))
    await state.put('keys', 'k', Buffer.from('other'))
    const all = watching(state, { initial: true, secrets: true, section: 'keys' })
    expect([await all(), await all()]).toEqual(
      expect.arrayContaining([put('k', 'other', 'keys', 1), put('l', 'more', 'keys', 1)]),
    )
  })
})

describe('a watch of the state', () => {
  it('tells what changes, across epochs, compactions, and a service that begins anew', async () => {
    let log = writing()
    const counts = countsOf(log)
    await counts.put('a', 1)
    const next = watching(
      asking(() => log),
      { initial: true },
    )
    expect(await next()).toEqual(put('a', '1'))
    await counts.put('b', 2)
    expect(await next()).toEqual(put('b', '2'))
    await counts.put('c', 2)
    await counts.put('c', 3)
    goOn(log, 2)
    expect(await next()).toEqual(put('c', '3'))
    await counts.delete('a')
    await log.section('notes').put('n', Buffer.from('new'))
    expect(await next()).toEqual({ op: 'delete', section: 'counts', key: 'a' })
    expect(await next()).toEqual(put('n', 'new', 'notes', 0))
    goOn(log, 3)
    await log.compact()
    expect(log.segments[0]?.kind).toBe('snapshot')
    await counts.put('b', 4)
    expect(await next()).toEqual(put('b', '4'))
    await counts.clear()
    await counts.put('d', 5)
    expect(await next()).toEqual({ op: 'clear', section: 'counts' })
    expect(await next()).toEqual(put('d', '5'))

    log = writing(1)
    await countsOf(log).put('d', 6)
    expect(await next()).toEqual(put('d', '6'))
    expect(await next()).toEqual({ op: 'delete', section: 'notes', key: 'n' })
    const before = log
    log = writing(1)
    // The same numbers, other bytes.
    await countsOf(log).bulk(Array.from({ length: 50 }, (_, i) => ({ key: `e${i}`, value: i })))
    expect(log.segments[0]!.size()).toBeGreaterThan(before.segments[0]!.size())
    const told: unknown[] = []
    for (let i = 0; i < 51; i++) told.push(await next())
    expect(told).toContainEqual(put('e49', '49'))
    expect(told).toContainEqual({ op: 'delete', section: 'counts', key: 'd' })
  })

  it('begins with what changes after the first look, and ends with its signal', async () => {
    const log = writing()
    await countsOf(log).put('a', 1)
    const ending = new AbortController()
    let looks = 0
    const state = asking(() => {
      looks++
      return log
    })
    const next = watching(state, { section: 'counts', signal: ending.signal })
    const first = next()
    await expect.poll(() => looks, { timeout: 20_000 }).toBeGreaterThan(2)
    await countsOf(log).put('b', 2)
    expect(await first).toEqual(put('b', '2'))
    const never = next()
    ending.abort(new Error('enough'))
    await expect(never).rejects.toThrow('enough')
    await expect(state.watch(untyped({ sections: 'counts' })).next()).rejects.toThrow(code('ERR_FDB_OPTION'))
  })
})

it('a client without a control path is refused as other wrong arguments are', async () => {
  await expect(OperatorClient.connect(untyped(undefined))).rejects.toThrow(code('ERR_FDB_OPTION'))
})
