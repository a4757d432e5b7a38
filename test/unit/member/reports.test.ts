import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join } from '../../../src/index.js'
import { closeAll } from '../../../src/kernel/index.js'
import type { JoinOptions } from '../../../src/member/options/options.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { encodeBody, PUT } from '../../../src/state/records.js'
import { Channel } from '../../../src/wire/channel.js'
import { encodeFrame } from '../../../src/wire/frame.js'
import { FORWARDS_WRITES, Link, VERSIONS } from '../../../src/wire/link.js'
import { hello, packed } from '../../processes/raw-peer.js'
import { until } from '../../processes/until.js'

const { Intent } = fdbroker.wire
const { Outcome } = fdbroker.wire.Written
type Written = fdbroker.wire.Written.$Properties
type Write = fdbroker.wire.Write.$Properties

/** A member that serves, and processes of earlier generations that report to it. */
async function serving(options: Partial<JoinOptions> = {}) {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-reports-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const member = await join({ service: 'shop', control, drain: { timeout: 0 }, ...options })
  onTestFinished(() => member.close({ timeout: 0 }))
  await member.ready()
  const section = member.section('s')
  // A section that the log knows may be written by a process that drains.
  await section.put('here', Buffer.from('here'))
  const draining = async () => {
    const link = new Link(await Channel.connect(control, { timeoutMs: 1_000 }))
    onTestFinished(() => link.close())
    const told: Written[] = []
    let welcomed = false
    link.start({
      message: ({ welcome, written }, fds) => {
        closeAll(fds)
        if (welcome) welcomed = true
        if (written) told.push(written)
      },
      bundle: items => closeAll(items.map(({ fd }) => fd)),
      broken: () => {},
      end: () => {},
    })
    const [versionMin, versionMax] = [VERSIONS.min, VERSIONS.max]
    const capabilities = [FORWARDS_WRITES]
    const { pid } = process
    link.post({
      hello: {
        versionMin,
        versionMax,
        service: 'shop',
        intent: Intent.DRAINING,
        pid,
        generation: 0,
        capabilities,
        top: member.status().epoch,
      },
    })
    await until('it is welcome', () => welcomed)
    const forward = (write: Write) => link.post({ write })
    const report = (facts: object) =>
      link.post({ heartbeat: { healthy: true, report: JSON.stringify(facts) } })
    return { link, told, forward, report }
  }
  return { member, section, draining, control }
}

const part = (key: string, bytes = 1) => [
  encodeBody([{ section: 's', op: PUT, key, value: Buffer.alloc(bytes), version: 0 }]),
]

describe('changes that a draining process forwards', () => {
  it('take effect in parts as they come, and a begun one is not forgotten for whole ones', async () => {
    const { section, draining } = await serving()
    const { told, forward } = await draining()
    forward({ number: 1, source: 0, request: 'two parts', parts: part('first'), more: true })
    for (let number = 2; number <= 100; number++)
      forward({ number, source: 0, request: `r${number}`, parts: part(`k${number}`) })
    forward({ number: 101, source: 0, request: 'gone', parts: part('gone'), more: true })
    forward({ number: 101, source: 0, request: '' })
    forward({ number: 1, source: 0, request: 'two parts', parts: part('second') })
    await until('all are answered', () => told.length === 100)
    expect([section.size, section.has('first'), section.has('second'), section.has('gone')]).toEqual([
      102,
      true,
      true,
      false,
    ])
  })

  it('take no effect where one is refused before it has come whole, with one answer', async () => {
    const { section, draining } = await serving({ stateLimits: { waitingBytes: 2_000 } })
    const { told, forward } = await draining()
    const piece = (number: number, key: string, bytes: number, more: boolean) =>
      forward({ number, source: 0, request: `r${number}`, parts: part(key, bytes), more })
    piece(1, 'first', 1_000, true)
    piece(1, 'second', 1_500, true)
    piece(1, 'third', 10, true)
    piece(1, 'fourth', 10, false)
    // The number is free again behind the last piece.
    piece(1, 'another', 10, false)
    await until('both are answered', () => told.length >= 2)
    expect(told).toMatchObject([{ code: 'ERR_FDB_STATE_LIMIT' }, { outcome: Outcome.APPLIED }])
    expect([...section.keys()].sort()).toEqual(['another', 'here'])
  })

  it('go away where too many have come in part, and the begun ones take effect', async () => {
    const { section, draining } = await serving()
    const { told, forward } = await draining()
    const piece = (source: number, number: number, key: string, more: boolean) =>
      forward({ number, source, request: `${source} ${number}`, parts: part(key), more })
    const begun = Array.from({ length: 64 }, (_, i) => i + 1)
    for (const source of begun) piece(source, source, `${source} first`, true)
    piece(65, 65, '65 first', true)
    piece(65, 65, '65 second', true)
    // The source's later changes must not be made before.
    piece(65, 66, '66', false)
    piece(65, 65, '65 last', false)
    for (const source of begun) piece(source, source, `${source} last`, false)
    await until('all are answered', () => told.length >= 66)
    expect(told.filter(({ outcome }) => outcome === Outcome.AGAIN).map(({ number }) => number)).toEqual([
      65, 66,
    ])
    expect(new Set(told.map(({ number }) => number)).size).toBe(told.length)
    expect(section.size).toBe(1 + 2 * 64)
    expect(['65 first', '65 second', '65 last', '66'].filter(key => section.has(key))).toEqual([])
    // The author has connected again, and is another source.
    piece(67, 67, '65 first', true)
    piece(67, 67, '65 last', false)
    await until('it is made', () => section.has('65 last'))
  })

  it('stay begun where their author has gone', async () => {
    const { section, draining } = await serving({ stateLimits: { waitingBytes: 2_000 } })
    const { told, forward } = await draining()
    for (let number = 1; number <= 200; number++) {
      // Every other one is refused: nothing is kept of either.
      const parts = part('gone', (number % 2) * 3_000)
      forward({ number, source: number, request: 'r', parts, more: true })
      forward({ number, source: number, request: '' })
    }
    forward({ number: 201, source: 201, request: 'r', parts: part('first'), more: true })
    forward({ number: 201, source: 201, request: 'r', parts: part('last') })
    await until('it is answered', () => told.some(({ number }) => number === 201))
    expect(told.filter(({ outcome }) => outcome === Outcome.AGAIN)).toEqual([])
    expect([...section.keys()].sort()).toEqual(['first', 'here', 'last'])
  })
})

describe('older generations that drain', () => {
  it('appear as their last report says, and not any more when they have ended', async () => {
    const { member, draining } = await serving()
    const shown = () => member.status().draining.map(({ phase, connections }) => [phase, connections])
    const silent = await draining()
    const full = await draining()
    const empty = await draining()
    for (const connections of [0, 3]) full.report({ generation: 2, phase: 'leaving', connections })
    for (const connections of [3, 0]) empty.report({ generation: 3, phase: 'leaving', connections })
    const all = [
      ['unknown', 0],
      ['leaving', 3],
      ['leaving', 0],
    ]
    await until('all are shown', () => JSON.stringify(shown()) === JSON.stringify(all), 10_000, shown)
    for (const { link } of [silent, full, empty]) link.close()
    await until('none is shown', () => shown().length === 0)
  })
})

/** Connects, says what the test gives it, and closes its connection at the first byte of its input. Lives on. */
const CONNECTS = `
const socket = require('node:net').connect(process.argv[1], () => socket.write(Buffer.from(process.argv[2], 'base64')))
process.stdin.once('data', () => socket.destroy())
socket.on('close', () => console.log('closed'))
`

it('the member that ends the service waits for an older generation that drains and has lost its connection', async () => {
  const { member, control } = await serving({ drain: { timeout: 60_000 } })
  const report = JSON.stringify({ generation: 0, phase: 'leaving', connections: 1 })
  const frames = [hello('DRAINING'), { heartbeat: { healthy: true, report } }]
  const bytes = Buffer.concat(frames.map(body => encodeFrame(packed(body), 0)))
  const older = spawn(process.execPath, ['-e', CONNECTS, control, bytes.toString('base64')])
  onTestFinished(() => void older.kill('SIGKILL'))
  await until('it drains', () => member.status().draining.some(({ phase }) => phase === 'leaving'))
  let isClosed = false
  const closed = member.close().then(() => {
    isClosed = true
  })
  older.stdin.write('\n')
  await once(older.stdout, 'data')
  await until('its connection has ended', () => member.status().draining.length === 0)
  // Everything that is due now happens.
  await new Promise(resolve => setImmediate(resolve))
  expect(isClosed).toBe(false)
  older.kill('SIGKILL')
  await closed
})
