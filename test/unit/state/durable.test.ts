import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { unpackAnswer } from '../../../src/member/state/write-receiver.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { stateFileSettings } from '../../../src/state/file/files.js'
import { StateFile } from '../../../src/state/file/state-file.js'
import type { ForwardedWrite } from '../../../src/state/forwarded-write.js'
import { bytes, defineSection, Segment, StateLog } from '../../fixtures/state.js'
import { untyped } from '../../fixtures/untyped.js'
import { until } from '../../processes/until.js'

const DURABLE = defineSection({ version: 1, codec: bytes(), durable: true })
const PLAIN = defineSection({ version: 1, codec: bytes() })
const quiet = { info() {}, warn() {} }
const value = Buffer.from('x')

function opened(mayWrite = () => true) {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-durable-'))
  const log = new StateLog()
  const settings = stateFileSettings({ path: join(folder, 'state'), sync: 'never' })
  const file = new StateFile(settings, log, quiet, mayWrite)
  log.disk = file
  onTestFinished(() => {
    file.stop()
    log.close()
    rmSync(folder, { recursive: true, force: true })
  })
  return { log, file, orders: log.section('orders', DURABLE), notes: log.section('notes', PLAIN) }
}

function writing() {
  const segment = Segment.create(1)
  const all = opened(() => !segment.sealed)
  all.log.startWriting(segment)
  all.file.serve()
  return all
}

describe('a change of a durable section', () => {
  it('resolves when it is on the disk, whatever kind it is', async () => {
    const { log, file, orders } = writing()
    const onDisk = () => file.status().syncedSequence === log.sequence
    await orders.put('a', value)
    expect(onDisk()).toBe(true)
    await orders.update('a', () => Buffer.from('y'))
    expect(onDisk()).toBe(true)
    await orders.bulk([{ key: 'b', value }])
    expect(onDisk()).toBe(true)
    await orders.delete('a')
    expect(onDisk()).toBe(true)
    await orders.clear()
    expect(onDisk()).toBe(true)
  })

  it('fails with the error of any other change if this process cannot write', async () => {
    const { log, file, notes } = writing()
    log.endWriting(new FdbError('ERR_FDB_UNFIT', 'this process cannot write'))
    file.stop()
    for (const options of [{}, { durable: true }])
      await expect(notes.put('a', value, options)).rejects.toMatchObject({ code: 'ERR_FDB_UNFIT' })
  })

  it('does not wait for the disk with durable: false, as one of another section does not', async () => {
    const { file, orders, notes } = writing()
    await orders.put('a', value)
    await orders.put('b', value, { durable: false })
    await notes.put('c', value)
    expect(file.status().syncedSequence).toBe(1)
  })

  it('makes an update of several sections durable, unless that changes others alone', async () => {
    const { log, file, orders, notes } = writing()
    await orders.put('a', value)
    await log.update(state => void (state.get(orders, 'a') && state.put(notes, 'n', value)))
    expect(file.status().syncedSequence).toBe(1)
    await log.update(state => void state.put(orders, 'b', value), { durable: false })
    expect(file.status().syncedSequence).toBe(1)
    await log.update(state => {
      state.put(notes, 'n', value)
      state.put(orders, 'c', value)
    })
    expect(file.status().syncedSequence).toBe(log.sequence)
  })

  it('fails, unmade, where there is no state file', async () => {
    const { log, orders } = writing()
    log.disk = null
    const option = { code: 'ERR_FDB_OPTION' }
    await expect(orders.put('a', value)).rejects.toMatchObject(option)
    await expect(log.update(state => void state.put(orders, 'a', value))).rejects.toMatchObject(option)
    expect(log.sequence).toBe(0)
  })

  it('waits before this process serves, as any other change does, and is durable then', async () => {
    const { log, file, orders } = opened()
    const made = Promise.all([
      orders.put('a', value),
      log.update(state => void state.put(orders, 'b', value)),
    ])
    log.startWriting(Segment.create(1))
    file.serve()
    await made
    expect(file.status().syncedSequence).toBe(2)
  })

  it('waits in a process that accepts clients and does not write yet, and is refused in one that does neither', async () => {
    const { log, file, notes } = opened()
    await file.prepare()
    await expect(notes.put('a', value, { durable: true })).rejects.toMatchObject({ code: 'ERR_FDB_FENCED' })
    log.accepts = () => true
    const made = notes.put('a', value, { durable: true })
    log.startWriting(Segment.create(1))
    file.serve()
    await made
    expect(file.status().syncedSequence).toBe(1)
  })

  it('reaches the disk of the process that writes where that is another', async () => {
    const elder = writing()
    const { log, orders, notes } = opened()
    await log.adopt(elder.log.segments[0]!.readOnly())
    const sent: ForwardedWrite[] = []
    const forwarding = log.forwardWriting({
      timeoutMs: 1000,
      refusal: new FdbError('ERR_FDB_FENCED', 'late'),
    })
    forwarding.connect({ send: (_number, write) => sent.push(write) })
    const changes = [
      orders.put('a', value),
      notes.put('b', value),
      log.update(state => void state.put(orders, 'c', value)),
    ]
    for (const change of changes) change.catch(() => {})
    await until('those before the update are sent', () => sent.length === 2)
    for (const { request, parts } of sent) {
      const arriving = elder.log.incoming()
      for (const part of parts) arriving.add(part)
      await elder.log.accept(arriving, { request, reads: [] })
    }
    log.follow()
    for (const number of [1, 2])
      forwarding.onAnswer(number, { outcome: 'applied', existed: false, sequence: number })
    await until('the update is sent', () => sent.length === 3)
    expect(sent.map(({ durable = false }) => durable)).toEqual([true, false, true])
  })

  it('waits for the disk of another process that has sealed the segment unheard', async () => {
    const { log, file, notes } = writing()
    let fenced = false
    log.onFenced = () => {
      fenced = true
    }
    await notes.put('a', value, { durable: true })
    const change = notes.put('b', value, { durable: true })
    change.catch(() => {})
    void log.position
    log.segments[0]!.seal()
    await expect(file.flush()).rejects.toMatchObject({ code: 'ERR_FDB_FENCED' })
    const sent: ForwardedWrite[] = []
    const refusal = new FdbError('ERR_FDB_FENCED', 'late')
    await until('this process has noticed it', () => fenced)
    const forwarding = log.forwardWriting({ timeoutMs: 1000, refusal })
    forwarding.connect({ send: (_number, write) => sent.push(write) })
    await until('it asks the other process', () => sent.length === 1)
    expect(sent[0]).toMatchObject({ parts: [], durable: true })
    forwarding.onAnswer(1, { outcome: 'applied', existed: false, sequence: 3 })
    await change
  })

  it('goes to the process that has sealed the segment unheard, as any other change does', async () => {
    const { log, notes } = writing()
    log.segments[0]!.seal()
    const changes = [notes.put('a', value, { durable: true }), notes.put('b', value)]
    for (const change of changes) change.catch(() => {})
    const sent: ForwardedWrite[] = []
    const refusal = new FdbError('ERR_FDB_FENCED', 'late')
    const forwarding = log.forwardWriting({ timeoutMs: 1000, refusal })
    forwarding.connect({ send: (_number, write) => sent.push(write) })
    await until('both are sent', () => sent.length === 2)
    expect(sent.map(({ durable = false }) => durable)).toEqual([true, false])
  })
})

describe('a durable change that was made, and is not on the disk', () => {
  it('says so by details.made, also when another process has made it', () => {
    const { Outcome } = fdbroker.wire.Written
    const told = (code: string) =>
      unpackAnswer({ outcome: Outcome.REFUSED, code, message: 'it is so', retryable: true })
    expect(told('ERR_FDB_STATE_FILE')).toMatchObject({
      error: { code: 'ERR_FDB_STATE_FILE', details: { made: true } },
    })
    expect(told('ERR_FDB_STATE_LIMIT')).toMatchObject({ error: { details: {} } })
  })
})

it('a schema says with true or false whether it is durable', () => {
  expect(() => defineSection({ version: 1, codec: bytes(), durable: untyped(1) })).toThrow(
    /durable is 1; give true or false/,
  )
})
