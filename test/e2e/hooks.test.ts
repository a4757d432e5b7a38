import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import type { ServiceEvent } from '../../src/events/events.js'
import { EVENTS_COMMAND, eventsBody, readEventPage } from '../../src/events/events.js'
import { join } from '../../src/index.js'
import { OperatorClient } from '../../src/operator/client.js'
import { startDaemon } from '../processes/daemon.js'
import { Scene } from '../processes/scene.js'
import { until } from '../processes/until.js'
import { wholeLines } from '../processes/whole-lines.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const TIMES = { probation: 200, heartbeat: 50, silence: 2_000 }
/** For the incumbent of a rollback, whose limits apply to its successor. */
const LONG = { ...TIMES, probation: 60_000 }

async function eventsOf(control: string): Promise<readonly ServiceEvent[]> {
  using client = await OperatorClient.connect(control)
  return readEventPage(await client.command(EVENTS_COMMAND, eventsBody(1))).events
}

/** Waits until the service has recorded so many ends of hooks. */
async function hooksOf(control: string, count: number): Promise<readonly ServiceEvent[]> {
  return await until('the hooks have ended', async () => {
    const ends = (await eventsOf(control).catch(() => [])).filter(({ type }) => type.startsWith('hook.'))
    return ends.length >= count ? ends : null
  })
}

/** Runs `fd-broker upgrade` with a command that ends before it joins. */
async function upgradeInVain(control: string): Promise<void> {
  const command = [CLI, 'upgrade', '--control', control, '--', process.execPath, '-e', 'process.exit(3)']
  const child = spawn(process.execPath, command, { stdio: 'ignore' })
  expect(await once(child, 'close')).not.toEqual([0, null])
}

/** Hooks that append what they get to a file, and the parsed lines of that file. */
function recording(scene: Scene) {
  const file = scene.file('hooks')
  const command = `echo "$FD_BROKER_SERVICE $FD_BROKER_EVENT" >> ${file}`
  const seen = () =>
    wholeLines(file).map(line => {
      const [service, ...json] = line.split(' ')
      const { hook, type, code } = JSON.parse(json.join(' '))
      return { service, hook, type, ...(code !== undefined && { code }) }
    })
  return { hooks: { success: command, failure: command, rollback: command }, seen }
}

describe('the hooks of a service', () => {
  for (const hosting of ['embedded', 'daemon'] as const)
    it(`run once for each success, failure and rollback (${hosting})`, async () => {
      const scene = Scene.open({ hosting, upgrade: TIMES })
      const { hooks, seen } = recording(scene)
      if (hosting === 'daemon') {
        const config = scene.write('broker.yaml', JSON.stringify({ services: { shop: { hooks } } }))
        await startDaemon(scene, { upgrade: TIMES, options: { config } })
      }
      const options = hosting === 'daemon' ? {} : { hooks }
      await scene.serve({ options })
      const second = await scene.serve({ options, upgrade: LONG })
      await hooksOf(scene.control, 1)
      await upgradeInVain(scene.control)
      await hooksOf(scene.control, 2)
      const refused = await scene.start({ options, check: 'throw' })
      await refused.says('failed')
      await hooksOf(scene.control, 3)
      await scene.serve({ options })
      await scene.rollback()
      const ends = await hooksOf(scene.control, 4)

      const shop = { service: 'shop' }
      expect(seen()).toEqual([
        { ...shop, hook: 'success', type: 'handoff.kept' },
        { ...shop, hook: 'failure', type: 'upgrade.failed', code: 'ERR_FDB_SUCCESSOR_EXITED' },
        { ...shop, hook: 'failure', type: 'handoff.failed', code: 'ERR_FDB_CHECK' },
        { ...shop, hook: 'rollback', type: 'rollback.serving', code: 'ERR_FDB_SUCCESSOR_LEFT' },
      ])
      expect(ends.map(({ type, hook }) => `${type} ${hook}`)).toEqual([
        'hook.ended success',
        'hook.ended failure',
        'hook.ended failure',
        'hook.ended rollback',
      ])
      expect((await scene.status()).pid === second.pid || hosting === 'daemon').toBe(true)
    })

  it('hold up no upgrade if they hang, and are ended at their limit with all that they have started', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const pids = scene.file('pids')
    const success = `sleep 600 & echo $! >> ${pids}; echo $$ >> ${pids}; wait`
    const options = { hooks: { success, timeout: 3_000 } }
    const first = await scene.serve({ options })
    const second = await scene.serve({ options })
    await until(
      'the hook runs',
      async () => existsSync(pids) && readFileSync(pids, 'utf8').split('\n').length > 2,
    )
    const third = await scene.serve({ options })
    expect(third.pid).not.toBe(second.pid)
    expect((await eventsOf(scene.control)).filter(({ type }) => type.startsWith('hook.'))).toEqual([])
    const [end] = await hooksOf(scene.control, 1)
    expect(end).toMatchObject({
      type: 'hook.failed',
      hook: 'success',
      pid: first.pid,
      reason: 'the command was killed: it has not ended within 3000 ms',
    })
    await until('its processes have ended', async () =>
      readFileSync(pids, 'utf8')
        .trim()
        .split('\n')
        .slice(0, 2)
        .every(
          pid => !existsSync(`/proc/${pid}/fd`) || readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z '),
        ),
    )
    // The old version has waited for its hook.
    await first.says('ended')
  })

  it('send the event to a webhook, and record that one answers with an error, or not in time', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const bodies: Record<string, unknown>[] = []
    const server = createServer((request, response) => {
      request
        .setEncoding('utf8')
        .on('data', text => bodies.push({ method: request.method, ...JSON.parse(text) }))
      if (bodies.length < 1 && request.url === '/ok') response.end()
      else if (request.url === '/broken') response.writeHead(503).end()
    })
    server.listen(0, '127.0.0.1')
    await once(server, 'listening')
    onTestFinished(() => {
      server.closeAllConnections()
      server.close()
    })
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const hooking = (success: string) => ({ options: { hooks: { success, timeout: 500 } } })
    const first = await scene.serve(hooking(`${base}/ok`))
    const second = await scene.serve(hooking(`${base}/broken`))
    await hooksOf(scene.control, 1)
    await scene.serve(hooking(`${base}/silent`))
    await hooksOf(scene.control, 2)
    await scene.serve()
    const ends = await hooksOf(scene.control, 3)
    expect(bodies[0]).toMatchObject({
      method: 'POST',
      service: 'shop',
      hook: 'success',
      type: 'handoff.kept',
      pid: first.pid,
      process: second.pid,
    })
    expect(ends.map(({ type, reason }) => [type, reason])).toEqual([
      ['hook.ended', undefined],
      ['hook.failed', 'the webhook answered 503'],
      ['hook.failed', 'the webhook has not answered within 500 ms'],
    ])
  })

  it('belong to the daemon, not to its members', async () => {
    const given = { service: 'shop', control: '/nowhere/shop.sock', hosting: 'daemon' as const }
    await expect(join({ ...given, hooks: { success: 'true' } })).rejects.toMatchObject({
      code: 'ERR_FDB_OPTION',
      message: expect.stringContaining('its configuration has hooks'),
    })
    await expect(join({ service: 'shop', hooks: { failure: 'http://' } })).rejects.toMatchObject({
      code: 'ERR_FDB_OPTION',
      message: expect.stringContaining('is no URL'),
    })
  })
})
