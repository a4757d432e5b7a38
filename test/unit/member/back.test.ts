import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { type Logger, SILENT } from '../../../src/base/logger.js'
import { FdbError } from '../../../src/errors.js'
import { receiveHello, turnAway } from '../../../src/holder/admission.js'
import { join, serveDaemon } from '../../../src/index.js'
import { closeAll, MAX_FDS_PER_MESSAGE } from '../../../src/kernel/index.js'
import type { HolderLink } from '../../../src/member/hosting/holder-link.js'
import { reconnectToDaemon } from '../../../src/member/hosting/holder-link.js'
import type { Settings } from '../../../src/member/options/options.js'
import { acquireControl, closeControl, type FirstControl } from '../../../src/os/control-path.js'
import { ControlListener } from '../../../src/wire/control-listener.js'
import { type Link, VERSIONS, type WireEnvelope } from '../../../src/wire/link.js'
import { joinDaemon } from '../../processes/member-link.js'
import { until } from '../../processes/until.js'

/** A daemon that does not acknowledge what the first ones bring to it. `welcomed`: called with each channel. Answers what it was told, a list for each channel. */
async function deafDaemon(
  control: string,
  deaf: number,
  welcomed: (link: Link) => void = () => {},
): Promise<WireEnvelope[][]> {
  const place = (await acquireControl(control)) as FirstControl
  const listener = new ControlListener(place.listener)
  const heard: WireEnvelope[][] = []
  const admission = { versions: VERSIONS, service: null, timeoutMs: 5_000, logger: SILENT }
  const ends: (() => void)[] = []
  listener.start((fd, who) =>
    receiveHello(fd, who, admission, ({ link, pidfd }) => {
      const told: WireEnvelope[] = []
      ends.push(() => link.close())
      pidfd?.close()
      const taken = heard.push(told) > deaf
      link.start({
        message: (envelope, fds) => {
          closeAll(fds)
          if (!envelope.heartbeat) told.push(envelope)
        },
        ...(taken && { bundle: items => closeAll(items.map(({ fd }) => fd)) }),
        broken: () => {},
        end: () => {},
      })
      const { pid } = process
      link.post({ welcome: { version: 1, pid, daemon: true, incarnation: 'another', generation: 1 } })
      welcomed(link)
    }),
  )
  onTestFinished(() => {
    listener.stop()
    for (const end of ends) end()
    closeControl(place)
  })
  return heard
}

it('a member tells a new daemon where it stands until that has taken it', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-back-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const daemon = await serveDaemon({ control })
  const member = await join({
    service: 'shop',
    control,
    hosting: 'daemon',
    timeout: 200,
    drain: { timeout: 0 },
  })
  await member.listen('web', 'tcp://127.0.0.1:0')
  await member.ready({ unserved: true })
  await daemon.close()
  const heard = await deafDaemon(control, 2)
  onTestFinished(() => member.close({ timeout: 0 }))
  await until('it is back', () => heard.at(-1)?.some(({ back }) => back))
  // The holdings were not acknowledged on the first two channels: the member says nothing there that would count on them.
  expect(heard.map(told => told.map(({ body }) => body))).toEqual([[], [], ['back']])
  expect(heard[2]?.[0]?.back).toMatchObject({ role: 'serving', sealed: false })
  expect(member.phase).toBe('serving')
})

it('a member that leaves before a new daemon has its descriptors does not come back to it as one that serves', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-back-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const daemon = await serveDaemon({ control })
  const { member, isConnected } = await joinDaemon(control)
  const web = await member.listen('web', 'tcp://127.0.0.1:0')
  const server = createServer(socket => socket.on('error', () => {}))
  web.serve(server)
  await member.ready()
  // The member drains as long as it has a connection.
  const client = connect(web.address.port!)
  await once(server, 'connection')
  await daemon.close()
  const links: Link[] = []
  const heard = await deafDaemon(control, 0, link => {
    link.channel.pause()
    links.push(link)
  })
  await until('it has connected', () => links.length === 1 && isConnected())
  const closed = member.close({ timeout: 1_000 })
  await until('it leaves', () => member.phase === 'leaving')
  links[0]!.channel.resume()
  await until('it has told that it has gone', () => heard[0]?.some(({ gone }) => gone))
  client.destroy()
  await closed
  expect(heard[0]!.map(({ body }) => body)).toEqual(['gone'])
})

it('a registration that a dead daemon did not answer is repeated after Back, also if Back takes several messages of descriptors', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-back-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const daemon = await serveDaemon({ control })
  const member = await join({ service: 'shop', control, hosting: 'daemon', drain: { timeout: 0 } })
  for (let i = 0; i <= MAX_FDS_PER_MESSAGE; i++) await member.listen(`web${i}`, 'tcp://127.0.0.1:0')
  await member.ready({ unserved: true })
  await daemon.close()
  const late = member.listen('late', 'tcp://127.0.0.1:0').catch(() => {})
  const heard = await deafDaemon(control, 0)
  onTestFinished(async () => {
    await member.close({ timeout: 0 })
    await late
  })
  await until('the registration is repeated', () => heard[0]?.some(({ register }) => register))
  expect(heard[0]!.map(({ body }) => body)).toEqual(['back', 'register'])
})

it('a member that is to end while a daemon does not answer connects no more, and blames no daemon', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-back-'))
  const control = joinPath(folder, 'control.sock')
  const connections: Socket[] = []
  const daemon = createServer(socket => connections.push(socket)).listen(control)
  onTestFinished(() => {
    for (const socket of connections) socket.destroy()
    daemon.close()
    rmSync(folder, { recursive: true, force: true })
  })
  await once(daemon, 'listening')
  const told: string[] = []
  const logger: Logger = { ...SILENT, debug: (_facts: object, text?: string) => told.push(text ?? '') }
  const settings = { control, service: 'shop', versions: VERSIONS, timeout: 60_000, logger } as Settings
  const over = new AbortController()
  const old = { facts: { incarnation: 'old' } } as HolderLink
  const back = reconnectToDaemon(settings, old, 1, over.signal)
  await until('the daemon is asked', () => connections.length === 1)
  over.abort()
  expect(await back).toBeNull()
  expect(told).toEqual([])
  expect(connections).toHaveLength(1)
})

it('a member is in the list of those for which the next daemon waits as soon as it has joined', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-back-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const daemon = await serveDaemon({ control })
  onTestFinished(() => daemon.close())
  const { member } = await joinDaemon(control)
  onTestFinished(() => member.close({ timeout: 0 }))
  await member.ready()
  const listed = JSON.parse(readFileSync(`${control}.members`, 'utf8')) as { members: { pid: number }[] }[]
  expect(listed.flatMap(({ members }) => members.map(({ pid }) => pid))).toEqual([process.pid])
})

it('a member of a daemon that welcomes it and closes each connection connects again after a pause', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-back-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const daemon = await serveDaemon({ control })
  const member = await join({ service: 'shop', control, hosting: 'daemon', drain: { timeout: 0 } })
  await member.listen('web', 'tcp://127.0.0.1:0')
  await member.ready({ unserved: true })
  await daemon.close()
  const welcomedAt: number[] = []
  await deafDaemon(control, Number.POSITIVE_INFINITY, link => {
    welcomedAt.push(performance.now())
    // As a daemon that has no free descriptor to watch the member.
    setImmediate(() => link.close())
  })
  onTestFinished(() => member.close({ timeout: 0 }))
  await until('it has come back four times', () => welcomedAt.length >= 4)
  const pauses = welcomedAt.slice(1).map((at, i) => at - welcomedAt[i]!)
  expect(Math.min(...pauses)).toBeGreaterThan(90)
  expect(member.phase).toBe('serving')
})

it('a member that the rules of a new daemon do not allow any more says so once, asks again and again, and can leave at once', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-back-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const daemon = await serveDaemon({ control })
  const told: string[] = []
  const logger = { ...SILENT, warn: (_: object, message: string) => void told.push(message) }
  const member = await join({ service: 'shop', control, hosting: 'daemon', logger, drain: { timeout: 0 } })
  await member.ready()
  await daemon.close()
  const place = (await acquireControl(control)) as FirstControl
  const listener = new ControlListener(place.listener)
  const admission = { versions: VERSIONS, service: null, timeoutMs: 5_000, logger: SILENT }
  let asked = 0
  listener.start((fd, who) =>
    receiveHello(fd, who, admission, caller => {
      asked++
      turnAway(caller, new FdbError('ERR_FDB_DENIED', 'uid 1001 may not join'))
    }),
  )
  onTestFinished(() => {
    listener.stop()
    closeControl(place)
  })
  await until('it has asked', () => asked > 0)
  // The rules may allow it again at any time, and its state must be there before that of a next version.
  await until('it has asked again', () => asked > 3, 2_000)
  expect(told).toEqual([expect.stringMatching(/may not use the daemon's control socket any more/)])
  const startedAt = performance.now()
  await member.close({ timeout: 0 })
  expect(performance.now() - startedAt).toBeLessThan(2_000)
})

it('a member that connects again amid a handoff starts no work, which the next version is about to do', async () => {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-back-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'control.sock')
  const daemon = await serveDaemon({ control })
  onTestFinished(() => daemon.close())
  const { member, isConnected, disconnect } = await joinDaemon(control)
  onTestFinished(() => member.close({ timeout: 0 }))
  const work: string[] = []
  member.whileServing(() => {
    work.push('starts')
    return () => void work.push('stops')
  })
  await member.ready()
  const next = await joinDaemon(control)
  onTestFinished(() => next.member.close({ timeout: 0 }))
  let stop = () => {}
  member.whileServing(
    () => () =>
      new Promise<void>(resolve => {
        stop = resolve
        disconnect()
      }),
  )
  const served = next.member.ready()
  await until('it is back', () => work.includes('stops') && isConnected())
  await served
  stop()
  expect(work).toEqual(['starts', 'stops'])
})
