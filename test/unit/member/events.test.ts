import { once } from 'node:events'
import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { join } from '../../../src/index.js'
import { ServingLink } from '../../../src/member/state/serving-link.js'
import { WriteForwarder } from '../../../src/member/state/write-forwarder.js'
import { VERSIONS } from '../../../src/wire/link.js'
import { StateLog } from '../../fixtures/state.js'
import { until } from '../../processes/until.js'

it('errors of the application’s listeners are logged and counted, and undo nothing', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-events-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const errors: string[] = []
  const quiet = { debug() {}, info() {}, warn() {} }
  const logger = { ...quiet, error: (facts: object) => errors.push(String((facts as { err: Error }).err)) }
  const heard: string[] = []
  const service = async () => {
    const member = await join({
      service: 'shop',
      control: joinPath(folder, 'control.sock'),
      logger,
      upgrade: { probation: 60_000, heartbeat: 20 },
    })
    const { generation } = member
    for (const event of ['serving', 'retiring', 'reinstated'] as const) {
      member.once(event, () => {
        throw new Error(`of ${generation} in ${event}`)
      })
      member.on(event, async () => {
        throw new Error(`of ${generation} behind ${event}`)
      })
      member.on(event, () => heard.push(`${generation} ${event}`))
    }
    return member
  }
  const first = await service()
  let announced = 0
  const keeper = {
    connections: 0,
    announce: () => {
      announced++
      throw new Error('of the keeper')
    },
    emptied: async () => {},
    cut: () => ({ idle: 0, busy: 0 }),
  }
  const web = await first.listen('web', 'tcp://127.0.0.1:0')
  web.serve(createServer(), { keeper })
  await first.ready()
  const notes = first.section('notes')
  await notes.put('from', Buffer.from('the first'))
  const second = await service()
  await second.listen('web', 'tcp://127.0.0.1:0')
  await second.ready({ unserved: ['web'] })
  await until('the first knows', () => first.status().phase === 'probation')
  await second.section('notes').put('from', Buffer.from('the second'))
  await until('the first stands by', () => first.phase === 'standby')
  expect(announced).toBe(1)
  await until('it reports', () => second.status().draining.some(({ generation }) => generation === 1))
  expect(heard).toEqual(['1 serving', '2 serving', '1 retiring'])
  await until('all are logged', () => errors.length === 7)
  expect(errors.sort()).toEqual(
    [
      'of 1 behind retiring',
      'of 1 behind serving',
      'of 1 in retiring',
      'of 1 in serving',
      'of 2 behind serving',
      'of 2 in serving',
      'of the keeper',
    ].map(text => `Error: ${text}`),
  )
  expect([first, second].map(member => member.status().applicationErrors)).toEqual([4, 2])
  await first.close({ timeout: 0 })
  await second.close({ timeout: 0 })
})

it('an upgrade that is not wanted any more when it is asked for starts nothing', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-events-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const member = await join({ service: 'shop', control: joinPath(folder, 'control.sock') })
  await member.ready()
  const reason = new Error('not wanted any more')
  await expect(
    member.upgrade({ argv: ['/no/such/program'], signal: AbortSignal.abort(reason) }),
  ).rejects.toBe(reason)
  await member.close({ timeout: 0 })
})

it('an upgrade whose program cannot be started is the last failure', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-events-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const member = await join({ service: 'shop', control: joinPath(folder, 'control.sock') })
  await member.ready()
  expect(member.status().lastFailure).toBeNull()
  const failed = await member.upgrade({ argv: ['/no/such/program'] }).catch(error => error)
  expect(member.status().lastFailure).toMatchObject({ code: failed.code })
  await member.close({ timeout: 0 })
})

it('a member that is closed amid its upgrade leaves no file of it, also if the successor lives a moment longer', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-events-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const member = await join({ service: 'shop', control: joinPath(folder, 'control.sock') })
  await member.ready()
  const ofUpgrade = () => readdirSync(folder).filter(name => /^control\.sock\.[0-9a-f]{16}/.test(name))
  const failed = member.upgrade({ argv: ['sleep', '60'] }).catch(error => error)
  await until('the upgrade has begun', () => ofUpgrade().length === 2)
  await until('its successor is known', () => member.status().upgrade !== null)
  await member.close({ timeout: 0 })
  expect(ofUpgrade()).toEqual([])
  expect(await failed).toMatchObject({ code: 'ERR_FDB_ABORTED' })
})

it('a reporter that is stopped and started again has one connection', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-events-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const open = new Set<Socket>()
  let accepted = 0
  const server = createServer(socket => {
    accepted++
    open.add(socket)
    socket.on('close', () => open.delete(socket)).resume()
  }).listen(control)
  await once(server, 'listening')
  const report = () => ({ pid: 1, generation: 1, phase: 'standby', connections: 0 })
  const log = new StateLog()
  const warned: string[] = []
  const logger = { ...SILENT, debug: (_: object, message: string) => void warned.push(message) }
  const reporter = new ServingLink({
    settings: { control, logger, service: 'shop', versions: VERSIONS },
    hello: () => ({ intent: 'draining', generation: 1, top: 0 }),
    everyMs: () => 20,
    report,
    events: { adopt: () => {} },
    writes: new WriteForwarder(log, 1_000, () => {}),
  })
  reporter.start()
  reporter.stop()
  reporter.start()
  await until('both are accepted, and one is gone', () => accepted === 2 && open.size === 1)
  reporter.reconnect()
  await until('it has connected anew', () => accepted === 3 && open.size === 1)
  expect(warned).toEqual([])
  rmSync(control)
  reporter.reconnect()
  await until('it says that it cannot connect', () => warned.length > 0)
  reporter.stop()
  expect(warned).toEqual([expect.stringMatching(/^the serving process cannot be reached yet/)])
  await until('none is left', () => open.size === 0)
  log.close()
  server.close()
})
