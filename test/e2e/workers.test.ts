import { once } from 'node:events'
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { startWorkers } from '../../src/index.js'
import { OperatorClient } from '../../src/operator/client.js'
import { SET_WORKERS } from '../../src/operator/service-commands.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { reload, replaceWorkers, setWorkers, stop, upgrade } from '../orders/operators.js'
import { ask } from '../processes/client.js'
import { daemonStatus } from '../processes/daemon.js'
import { Edge } from '../processes/edge.js'
import { GatedWorkers } from '../processes/gated-workers.js'
import { hasEnded, signalPid } from '../processes/launch.js'
import { hello, RawPeer } from '../processes/raw-peer.js'
import { present } from '../processes/release.js'
import { freePort } from '../processes/scene.js'
import { socketsAt } from '../processes/sockets.js'
import { pause, until } from '../processes/until.js'
import { Clients, type MainStatus, mainStatus, mainWhere, pidsOf, servedByAll } from '../processes/workers.js'
import { Sandbox } from './cli-processes.js'

const APP = fileURLToPath(new URL('../fixtures/app-workers.mjs', import.meta.url))
const LATE_CLIENT = fileURLToPath(new URL('../fixtures/late-client-worker.mjs', import.meta.url))

/** A proxy of two workers that answers by itself, and clients of it. */
async function several(more: object = {}) {
  const edge = await Edge.prepare({
    workers: 2,
    routes: [{ host: '*', respond: { status: 200, body: 'here\n' } }],
    upgrade: { probation: '0s' },
    ...more,
  })
  const main = await edge.launch()
  await edge.logged('the workers serve')
  const { control } = edge.sandbox
  return { edge, main, control, now: () => mainStatus(control) }
}

/** A proxy of two workers, the first of which waits for the rest of a request: the first worker would stay while the other one has a request. */
async function withHalfRequest() {
  const { edge, main, control } = await several()
  const old = pidsOf(await mainWhere(control, 'two workers serve', servedByAll(2))) as number[]
  const having = async () =>
    (await daemonStatus(control)).services.flatMap(({ connections, pid }) => (connections === 1 ? [pid] : []))
  for (;;) {
    const request = connect(edge.port, '127.0.0.1')
    onTestFinished(() => void request.destroy())
    request.write('GET / HTTP/1.1\r\nHost: any.test\r\nConnection: close\r\n')
    await until('a worker has the connection', async () => (await having()).length === 1)
    if ((await having())[0] === old[0]) return { edge, main, control, old, request }
    request.destroy()
    await until('the connection is gone', async () => (await having()).length === 0)
  }
}

function clientsOf(edge: Edge): Clients {
  const clients = new Clients(edge.url)
  onTestFinished(() => clients.stop())
  return clients
}

const pids = ({ workers: { all } }: MainStatus) => all.flatMap(({ pid }) => pid ?? [])

describe('a proxy of two workers', () => {
  it.runIf(NIGHTLY)('refuses a configuration without workers, as no upgrade can apply it', async () => {
    const { edge, control } = await several()
    edge.write({ workers: undefined })
    for (const order of [['reload'], ['upgrade', '--smart']]) {
      const { code, stderr } = await edge.sandbox.run(...order, '--control', control)
      expect({ order, code, stderr }).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/^ERR_FDB_RELOAD: .* "workers": stop this proxy/),
      })
    }
    edge.write({ workers: 2 })
    expect((await edge.sandbox.run('reload', '--control', control)).code).toBe(0)
  })

  it('has answers of both; one that is killed starts again, and loses its open requests, no more', async () => {
    const { edge, main, control } = await several()
    const before = await mainWhere(control, 'two workers serve', servedByAll(2))
    const clients = clientsOf(edge)
    await until('both answer', () => clients.answered.size === 2)
    const [first, second] = pidsOf(before) as [number, number]
    for (const [index, victim] of [second, first].slice(0, perLane(1, 2)).entries()) {
      signalPid(victim, 'SIGKILL')
      const killed = (status: MainStatus) => servedByAll(2)(status) && !pids(status).includes(victim)
      const after = await mainWhere(control, `a worker in the place of ${victim}`, killed)
      await until('the new one answers', () => pids(after).every(pid => clients.answered.has(String(pid))))
      expect(after.workers.all[1 - index]?.restarts).toBe(1)
    }
    await clients.stop()
    expect(clients.failures.filter(code => code !== 'ECONNRESET')).toEqual([])
    expect(clients.failures.length).toBeLessThanOrEqual(8)

    const last = pids(await mainStatus(control))
    signalPid(main, 'SIGTERM')
    for (const pid of [...last, main]) await edge.ended(pid)
  })

  it.runIf(NIGHTLY)(
    'ends at once when it is told so, also with a worker that does not hear of it',
    async () => {
      const { main, control } = await several()
      const [first, second] = pidsOf(await mainWhere(control, 'two workers serve', servedByAll(2))) as [
        number,
        number,
      ]
      signalPid(second, 'SIGSTOP')
      signalPid(main, 'SIGINT')
      const all = [main, first, second]
      await until(
        'all have ended',
        () => all.every(hasEnded),
        30_000,
        () => all.filter(pid => !hasEnded(pid)),
      )
    },
  )

  it('ends when it is told so, and kills a worker that does not hear of it in time', async () => {
    const { edge, main, control } = await several({ workers: { count: 2, stopTimeout: '500ms' } })
    const [first, second] = pidsOf(await mainWhere(control, 'two workers serve', servedByAll(2))) as [
      number,
      number,
    ]
    signalPid(second, 'SIGSTOP')
    signalPid(main, 'SIGTERM')
    for (const pid of [first, second, main]) await edge.ended(pid)
    expect(await edge.logged('a worker has not left in time: it is killed')).toMatchObject({
      worker: 1,
      pid: second,
    })
  })

  it.each(perLane(['fd-broker stop'], ['TERM', 'fd-broker stop']))(
    'ends after the last connection of its workers: %s',
    async how => {
      const { edge, main, control, old, request } = await withHalfRequest()
      const answer = text(request)
      const stop = () => edge.sandbox.run('stop', '--control', control)
      const stopped = how === 'TERM' ? signalPid(main, 'SIGTERM') : stop()
      await edge.logged('member phase', ({ phase }) => phase === 'leaving')
      await until('one worker has ended', () => old.some(hasEnded))
      expect(old.every(hasEnded)).toBe(false)
      // Half a second is more than the main process needs to end.
      await sleep(500)
      expect(hasEnded(main)).toBe(false)
      request.write('\r\n')
      expect(await answer).toContain('here')
      for (const pid of [...old, main]) await edge.ended(pid)
      if (how !== 'TERM') expect(await stopped).toMatchObject({ code: 0 })
    },
  )

  it('ends at once on INT, while a worker drains', async () => {
    const { edge, main, old } = await withHalfRequest()
    signalPid(main, 'SIGTERM')
    await until('one worker has ended', () => old.some(hasEnded))
    signalPid(main, 'SIGINT')
    for (const pid of [...old, main]) await edge.ended(pid, 4_000)
  })

  it.runIf(NIGHTLY)(
    'kills such a worker soon when it is told to end again, where nothing else would',
    async () => {
      const { edge, main, control } = await several({ workers: { count: 2, stopTimeout: 'off' } })
      const [first, second] = pidsOf(await mainWhere(control, 'two workers serve', servedByAll(2))) as [
        number,
        number,
      ]
      signalPid(second, 'SIGSTOP')
      signalPid(main, 'SIGTERM')
      await edge.logged('signal', ({ signal }) => signal === 'SIGTERM')
      // The first one waits for the others, whose changes it takes.
      expect([main, first, second].map(hasEnded)).toEqual([false, false, false])
      signalPid(main, 'SIGINT')
      for (const pid of [first, second, main]) await edge.ended(pid)
    },
  )

  it('upgrades, restarts, serves with more and with fewer, and refuses no client', async () => {
    const { edge, main, control, now } = await several()
    const old = pids(await now())
    const clients = clientsOf(edge)
    await until('both answer', () => clients.answered.size === 2)

    expect(await edge.sandbox.run('upgrade', '--control', control)).toMatchObject({ code: 0 })
    const upgraded = await mainWhere(control, 'the next workers serve', servedByAll(2))
    expect(upgraded).toMatchObject({ generation: 2, workers: { count: 2 } })
    expect([upgraded.pid, ...pids(upgraded)].filter(pid => [main, ...old].includes(pid))).toEqual([])
    for (const pid of [main, ...old]) await edge.ended(pid)

    const host = 'once.example'
    const added = `{}\n${JSON.stringify({ host, respond: { status: 200, body: 'once' } })}\n`
    using operator = await OperatorClient.connect(control)
    await operator.command('routes.add', added)
    const told = new Map<unknown, string>()
    await until('both answer by a route that was added once', async () => {
      const { headers, body } = await ask(edge.url, { headers: { host } }).answer
      told.set(headers['x-pid'], body)
      return pids(upgraded).every(pid => told.get(String(pid)) === 'once')
    })

    expect(await edge.sandbox.run('workers', 'set', '--control', control, '3')).toMatchObject({ code: 0 })
    await mainWhere(control, 'three serve', servedByAll(3))
    const third = pidsOf(await now())[2]!
    await until('the third answers', () => clients.answered.has(String(third)))
    expect(await edge.sandbox.run('workers', 'set', '--control', control, '1')).toMatchObject({ code: 0 })
    const fewer = await mainWhere(control, 'one serves', ({ workers }) => workers.all.length === 1)
    expect(await edge.sandbox.run('status', '--control', control)).toMatchObject({ code: 0, stderr: '' })
    // Connections to the others' listeners are answered too.
    await clients.more(200)
    expect(hasEnded(third)).toBe(true)
    await clients.stop()
    expect(clients.failures).toEqual([])

    const left = [fewer.pid, ...pids(fewer)]
    expect(await edge.sandbox.run('stop', '--control', control)).toMatchObject({ code: 0 })
    expect(left.map(hasEnded)).toEqual(left.map(() => true))
  })

  it.runIf(NIGHTLY)(
    'reports connections lost with killed workers, and none that a rollback returned',
    async () => {
      const { edge, control, now } = await several({ upgrade: { probation: '60s' } })
      const old = pids(await now())
      const sockets = Array.from({ length: 8 }, () => connect(edge.port, '127.0.0.1'))
      onTestFinished(() => sockets.forEach(socket => void socket.destroy()))
      for (const socket of sockets) {
        socket.write('GET / HTTP/1.1\r\nHost: any.test\r\n\r\n')
        await once(socket, 'data')
      }
      const have = (who: readonly number[], count: number) =>
        until(`${who} have the connections`, async () => {
          const { services } = await daemonStatus(control)
          const serving = services.filter(({ pid }) => who.includes(pid))
          return serving.reduce((sum, { connections }) => sum + connections, 0) === count ? services : null
        })
      const next = async () => {
        await upgrade(control)
        const all = pids(await mainWhere(control, 'the next workers serve', servedByAll(2)))
        await have(all, sockets.length)
        return all
      }
      const lost = async () => (await have(old, 0)).reduce((sum, { moves }) => sum + moves.lost, 0)

      const returned = await next()
      expect(await edge.sandbox.run('rollback', '--control', control)).toMatchObject({ code: 0 })
      for (const pid of returned) await edge.ended(pid)
      await have(old, sockets.length)
      const killed = await next()
      const ended = sockets.map(socket => once(socket, 'close'))
      for (const pid of killed) signalPid(pid, 'SIGKILL')
      await Promise.all(ended)
      await until('the old workers serve again', async () => `${pids(await now())}` === `${old}`)
      expect(await lost()).toBe(sockets.length)
    },
  )

  it.each(perLane(['SIGTERM'], ['SIGTERM', 'SIGINT', 'SIGQUIT']))(
    '%s to a worker in its probation: its previous process serves again',
    async signal => {
      const { edge, control, now } = await several({ upgrade: { probation: '60s' } })
      const [old] = pids(await now())
      await replaceWorkers(control)
      const [next, second] = pids(await mainWhere(control, 'the next workers serve', servedByAll(2)))
      const clients = clientsOf(edge)
      await clients.more(10)
      signalPid(next!, signal as NodeJS.Signals)
      await edge.ended(next!)
      await clients.more(10)
      expect(pids(await now())).toEqual([old, second])
      await clients.stop()
      // An order to end at once cuts requests.
      if (signal !== 'SIGINT') expect(clients.failures).toEqual([])
    },
  )

  it('asks for the health of a next worker, but not of one in whose place no process serves', async () => {
    const health = {
      ...{ command: 'false', passes: 1, interval: '50ms', timeout: '500ms', within: '1s' },
    }
    const { control, now } = await several({ upgrade: { probation: '5s', health } })
    const old = pids(await now())
    await expect(replaceWorkers(control)).rejects.toMatchObject({ code: 'ERR_FDB_UNHEALTHY' })
    expect(pids(await now())).toEqual(old)
    signalPid(old[0]!, 'SIGKILL')
    const again = (status: MainStatus) => servedByAll(2)(status) && pids(status)[0] !== old[0]
    await mainWhere(control, 'the first one serves again', again)
  })

  it('lets a next worker serve although its health fails, if the previous one dies', async () => {
    const health = {
      ...{ command: 'false', passes: 1, interval: '50ms', timeout: '500ms', within: '60s' },
    }
    const { control, now } = await several({
      upgrade: { probation: '5s', health, ready: '90s', timeout: '90s' },
    })
    const [old] = pids(await now())
    replaceWorkers(control).catch(() => {})
    await until(
      'the next one joins',
      async () => (await daemonStatus(control)).services[0]?.phase === 'offering',
    )
    signalPid(old!, 'SIGKILL')
    const serves = ({ workers }: MainStatus) =>
      workers.all[0]!.phase === 'serving' && workers.all[0]!.pid !== old
    await mainWhere(control, 'the next one serves', serves)
  })

  it('ends with its standbys if a manager signals all processes at once', async () => {
    const { edge, main, control, now } = await several({ upgrade: { probation: '60s' } })
    const old = pids(await now())
    await replaceWorkers(control)
    const next = pids(await mainWhere(control, 'the next workers serve', servedByAll(2)))
    const all = [main, ...next, ...old]
    for (const pid of all) signalPid(pid, 'SIGTERM')
    for (const pid of all) await edge.ended(pid)
    expect(edge.sandbox.output).not.toMatch(/is killed/)
  })

  it('ends with all its workers on `fd-broker stop`, also with those that stand by in a probation', async () => {
    const { edge, control, now } = await several({ upgrade: { probation: '60s' } })
    const old = pids(await now())
    await upgrade(control)
    const { pid, ...upgraded } = await mainWhere(control, 'the next workers serve', servedByAll(2))
    expect(old.filter(hasEnded)).toEqual([])
    expect(await edge.sandbox.run('stop', '--control', control)).toMatchObject({ code: 0 })
    for (const each of [pid, ...pids({ pid, ...upgraded }), ...old]) await edge.ended(each)
  })
})

it.runIf(NIGHTLY)(
  'an order to cancel where no handoff is under way changes nothing: workers stop, start and are replaced',
  async () => {
    const { edge, main, control, now } = await several()
    const [first, second] = pidsOf(await mainWhere(control, 'two serve', servedByAll(2)))
    const operator = await RawPeer.connect(control)
    onTestFinished(() => operator.leave())
    operator.say(hello('OPERATE'), { cancelUpgrade: {} }, { statusRequest: {} })
    await until('it was read', () => operator.heard.some(({ status }) => status))
    expect(await edge.sandbox.run('stop', '--control', control, '--service', 'edge.1')).toMatchObject({
      code: 0,
    })
    const again = await mainWhere(
      control,
      'another second worker serves',
      status => servedByAll(2)(status) && pidsOf(status)[1] !== second,
    )
    expect([again.pid, pidsOf(again)[0], again.workers.all[1]?.restarts]).toEqual([main, first, 1])
    operator.say({ cancelUpgrade: {} })
    expect(await edge.sandbox.run('workers', 'restart', '--control', control)).toMatchObject({ code: 0 })
    const status = await now()
    expect(status.pid).toBe(main)
    expect(pids(status).filter(pid => pids(again).includes(pid))).toEqual([])
  },
)

it.runIf(NIGHTLY)(
  'an order that waits for its turn is not begun if its sender has gone by then',
  async () => {
    const main = await GatedWorkers.start()
    main.shut()
    const replaced = replaceWorkers(main.control)
    await main.waits()
    const sender = await OperatorClient.connect(main.control)
    sender.command(SET_WORKERS, '3').catch(() => {})
    // The answer shows that the main process has read the order.
    await sender.status()
    sender.close()
    const next = reload(main.control)
    await mainStatus(main.control)
    main.open()
    await Promise.all([replaced, next])
    expect((await mainStatus(main.control)).workers.count).toBe(2)
  },
)

it('a shorter time to end, ordered later, counts for a worker that drains already: it ends by itself', async () => {
  const main = await GatedWorkers.start()
  const serving = await main.serving()
  await main.hold(serving[0])
  await stop(main.control, null)
  await until('one worker has ended', () => serving.some(hasEnded))
  await stop(main.control, 500)
  await until('all have ended', () => [main.pid, ...serving].every(hasEnded), 30_000)
  expect(main.sandbox.output).not.toContain('it is killed')
})

it('a main process that an operator stops ends, and so does the next one, which its upgrade has started', async () => {
  const main = await GatedWorkers.start()
  const { control, sandbox } = main
  const { end } = await main.hold()
  const file = join(sandbox.folder, 'begins')
  const script = `echo next; while [ ! -e "${file}" ]; do sleep 0.05; done; exec "$@"`
  const upgraded = upgrade(control, { argv: ['/bin/sh', '-c', script, 'sh', ...main.command] })
  const refused = expect(upgraded).rejects.toMatchObject({ code: 'ERR_FDB_ABORTED' })
  await until('the next one starts', () => sandbox.output.includes('next'))
  await stop(control, null)
  writeFileSync(file, '')
  await refused
  end()
  await until(
    'no process is left',
    () => sandbox.processes().length === 0,
    30_000,
    () => sandbox.processes(),
  )
  await expect(ask(main.url).answer).rejects.toMatchObject({ code: 'ECONNREFUSED' })
})

describe('a second main process', () => {
  it('replaces the first one and its workers, and no client is refused', async () => {
    const { edge, main, control, now } = await several()
    const old = pids(await now())
    const clients = clientsOf(edge)
    await until('both answer', () => clients.answered.size === 2)
    const next = await edge.launch()
    const all = ({ pid, workers }: MainStatus) => [pid, ...workers.all.map(worker => worker.pid)]
    const replaced = await mainWhere(
      control,
      'all are new',
      status => servedByAll(2)(status) && !all(status).some(pid => [main, ...old].includes(pid!)),
    )
    expect(replaced.pid).toBe(next)
    for (const pid of [main, ...old]) await edge.ended(pid)
    await clients.stop()
    expect(clients.failures).toEqual([])
  })

  it.runIf(NIGHTLY)(
    'leaves the worker alone that the first one has started, and that began to serve when the second one waited',
    async () => {
      const main = await GatedWorkers.start()
      const { control, sandbox } = main
      const old = await main.serving()
      main.shut()
      replaceWorkers(control).catch(() => {})
      await main.waits()
      const before = socketsAt(control)
      const next = sandbox.launch([...main.command])
      await until('the second one waits', () => socketsAt(control) > before)
      main.open()
      const { workers } = await mainWhere(control, 'the new worker serves', status =>
        status.workers.all.some(({ pid }) => pid !== null && !old.includes(pid)),
      )
      main.shut()
      const worker = workers.all.find(({ pid }) => pid !== null && !old.includes(pid))!.pid!
      await next
      await mainWhere(control, 'the second one has taken over', ({ pid }) => pid !== main.pid)
      // In this time the first one would end it.
      await pause(3_000)
      expect(hasEnded(worker)).toBe(false)
      main.open()
    },
  )

  it.runIf(NIGHTLY)(
    'ends when a third one takes over while it replaces workers: only the third starts workers then',
    async () => {
      const answering = (body: string) => ({ routes: [{ host: '*', respond: { status: 200, body } }] })
      const { edge, control } = await several({ workers: 3, ...answering('first') })
      edge.write(answering('second'))
      const second = await edge.launch()
      await mainWhere(control, 'the second one has taken over', ({ pid }) => pid === second)
      edge.write(answering('third'))
      const third = await edge.launch()
      await edge.ended(second)
      const { pid } = await mainWhere(
        control,
        'the third one has replaced all workers',
        status => servedByAll(3)(status) && status.pid === third,
      )
      await until('the third configuration answers', async () => {
        const bodies = await Promise.all(
          Array.from({ length: 12 }, async () => (await ask(edge.url).answer).body),
        )
        return bodies.every(body => body === 'third')
      })
      const left = [pid, ...pids(await mainStatus(control))]
      expect(await edge.sandbox.run('stop', '--control', control)).toMatchObject({ code: 0 })
      for (const each of left) await edge.ended(each)
      await expect(ask(edge.url).answer).rejects.toMatchObject({ code: 'ECONNREFUSED' })
    },
  )

  it.runIf(NIGHTLY)(
    'refuses to start as a proxy without workers, beside the first one or by its upgrade',
    async () => {
      const { edge, main, control, now } = await several()
      const old = pids(await now())
      edge.write({ workers: undefined })
      const refused = {
        code: 1,
        stderr: expect.stringMatching(
          new RegExp(`ERR_FDB_CONTROL_TAKEN: .*process ${main} is a daemon or the main process of workers`),
        ),
      }
      expect(await edge.sandbox.run('proxy', '--config', edge.file)).toMatchObject(refused)
      expect(await edge.sandbox.run('upgrade', '--control', control)).toMatchObject({
        code: 1,
        stderr: expect.stringContaining('ERR_FDB_'),
      })
      const status = await now()
      expect([status.pid, ...pids(status)]).toEqual([main, ...old])
      expect((await ask(edge.url).answer).body).toBe('here\n')
    },
  )

  it('says which workers it could not replace, and why; they serve on', async () => {
    const foreign = createServer()
    const taken = await new Promise<number>(resolve => {
      foreign.listen(0, '127.0.0.1', () => resolve((foreign.address() as AddressInfo).port))
    })
    onTestFinished(() => void foreign.close())
    const { edge, main, now } = await several()
    const old = pids(await now())
    const [listener] = edge.config.listeners as object[]
    edge.write({ listeners: [listener, { name: 'taken', address: `tcp://127.0.0.1:${taken}` }] })
    const next = await edge.launch()
    const failed = await edge.logged(
      'the workers of the previous main process were not replaced and keep serving',
    )
    expect(failed.pid).toBe(next)
    expect(failed.err.message).toContain('ERR_FDB_ADDRESS_IN_USE')
    expect(failed.err.message).toContain(
      `these workers were not replaced and keep serving: edge (pid ${old[0]}), edge.1 (pid ${old[1]})`,
    )
    await edge.ended(main)
    const status = await now()
    expect([status.pid, ...pids(status)]).toEqual([next, ...old])
    expect(status.workers.all[0]?.lastFailure).toContain('ERR_FDB_ADDRESS_IN_USE')
    expect((await ask(edge.url).answer).body).toBe('here\n')
  })

  it.each(perLane(['which was killed'], ['and takes over from it', 'which was killed']))(
    'leaves the workers serving if it cannot start as many as the first one had, %s',
    async how => {
      const sandbox = Sandbox.open()
      const { control } = sandbox
      const url = `http://127.0.0.1:${await freePort()}`
      const start = (count: number, ...command: string[]) => {
        const options = ['--service', 'shop', '--control', control, '--count', `${count}`]
        return sandbox.launch([...present.cli, 'workers', 'start', ...options, '--', ...command])
      }
      const main = await start(2, process.execPath, APP, url.replace('http:', 'tcp:'))
      const old = pids(await mainWhere(control, 'two serve', servedByAll(2)))
      if (how === 'which was killed') signalPid(main, 'SIGKILL')
      const next = await start(3, 'false')
      await until('the first one has ended', () => hasEnded(main))
      const status = await mainWhere(control, 'the next one has tried all', ({ workers: { all } }) =>
        all.every(
          ({ lastFailure }, at) =>
            at === 1 || (at === 0 && how === 'which was killed') || lastFailure !== null,
        ),
      )
      expect([status.pid, ...pids(status)]).toEqual([next, ...old])
      expect(status.workers.all.map(({ phase }) => phase).slice(0, 2)).toEqual(['serving', 'serving'])
      expect((await ask(url).answer).body).toBe('0')
      // A main process that ends its workers would have ended them by now.
      await pause(500)
      expect([next, ...old].filter(hasEnded)).toEqual([])
    },
  )
})

it('a listener that only a worker has, as the main process was killed, stays with the next process of that worker', async () => {
  const sandbox = Sandbox.open()
  const { control } = sandbox
  const url = `http://127.0.0.1:${await freePort()}`
  const upgrade = JSON.stringify({ upgrade: { probation: 60_000 } })
  const command = [process.execPath, APP, url.replace('http:', 'tcp:'), upgrade]
  const start = (count: number) => {
    const options = ['--service', 'shop', '--control', control, '--count', `${count}`]
    return sandbox.launch([...present.cli, 'workers', 'start', ...options, '--', ...command])
  }
  /** Half of the connections get to each of two listeners. */
  const answered = async () => {
    const asked = Array.from({ length: 40 }, () => ask(url).answer)
    expect(new Set((await Promise.all(asked)).map(({ body }) => body))).toEqual(new Set(['0']))
  }
  const first = await start(2)
  const [, second] = pids(await mainWhere(control, 'two serve', servedByAll(2)))
  await setWorkers(control, 1)
  await until('the surplus worker has ended', () => hasEnded(second!))
  await answered()
  signalPid(first, 'SIGKILL')
  await start(1)
  await until('the worker has both listeners', async () => {
    const { services = [] } = await daemonStatus(control).catch(() => ({}) as Record<string, never>)
    return services.some(({ listeners }: { listeners: readonly unknown[] }) => listeners.length === 2)
  })
  await replaceWorkers(control)
  await answered()
})

it.runIf(NIGHTLY)('a main process that is closed while another one takes over ends', async () => {
  const { control } = Sandbox.open()
  const sandbox = Sandbox.open()
  const address = `tcp://127.0.0.1:${await freePort()}`
  const command = [process.execPath, APP, address]
  const phases: unknown[] = []
  const logger = { ...SILENT, debug: (facts: object) => phases.push((facts as { phase?: unknown }).phase) }
  const workers = await startWorkers({ service: 'shop', workers: 1, control, command, logger })
  phases.length = 0
  const options = ['--service', 'shop', '--control', control, '--count', '1']
  const next = await sandbox.launch([...present.cli, 'workers', 'start', ...options, '--', ...command])
  while (!phases.includes('offering')) await pause(1)
  const closed = workers.close().then(() => true)
  expect(await Promise.race([closed, pause(10_000)])).toBe(true)
  await mainWhere(control, 'the next one serves', status => status.pid === next && servedByAll(1)(status))
})

describe('the address of workers', () => {
  it('excludes another program’s address, also one that is shared', async () => {
    const foreign = createServer()
    const edge = await Edge.prepare({ workers: 2 })
    await new Promise<void>((resolve, reject) => {
      foreign.on('error', reject)
      // An option since Node 23.1: before, it is not shared, and refused all the same.
      foreign.listen({ port: edge.port, host: '127.0.0.1', ...{ reusePort: true } }, resolve)
    })
    onTestFinished(() => void foreign.close())
    const { code, stderr } = await edge.sandbox.run('proxy', '--config', edge.file)
    expect(code).not.toBe(0)
    expect(stderr).toMatch(/worker 0 of edge .* did not start to serve: ERR_FDB_ADDRESS_IN_USE: tcp/)
    expect(stderr).toContain('"the handoff failed; no process serves"')
  })
})

it('answers a client that waits in the queue of its listener when the main process ends', async () => {
  const { control, folder } = Sandbox.open()
  const answer = join(folder, 'answer')
  const command = [process.execPath, LATE_CLIENT, `${await freePort()}`, answer]
  const workers = await startWorkers({ service: 'shop', workers: 1, control, command })
  await workers.close()
  await until('the client has an answer', () => existsSync(answer) && statSync(answer).size > 0)
  expect(readFileSync(answer, 'utf8')).toBe('answered')
})
