import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join } from '../../src/member/joining/join.js'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY } from '../lanes/lane.js'
import { attack } from '../processes/attacker.js'
import { ownersStatus as status } from '../processes/owner.js'
import { hello } from '../processes/raw-peer.js'
import { needsRoot, needsSilentFiles, SECOND_UID, SecondUser } from '../processes/second-user.js'
import { until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const MAY = [{ uid: SECOND_UID }]
const DESCRIPTORS = 1_024

/** A daemon as `fd-broker serve` starts it, at which another user has these rights. */
async function serve(services: object, descriptors: object = {}) {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-others-'))
  chmodSync(folder, 0o755)
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const [control, config, log] = ['c.sock', 'broker.json', 'log'].map(name => joinPath(folder, name)) as [
    string,
    string,
    string,
  ]
  writeFileSync(config, JSON.stringify({ services, descriptors }))
  const script = `ulimit -n ${DESCRIPTORS}; exec "$0" "$@" >"$LOG" 2>&1`
  const args = ['-c', script, process.execPath, CLI, 'serve', '--control', control, '--config', config]
  const env = { ...process.env, NODE_OPTIONS: '', LOG: log }
  const daemon = spawn('/bin/sh', args, { stdio: 'ignore', env })
  onTestFinished(() => void daemon.kill('SIGKILL'))
  const client = await until('it listens', () => OperatorClient.connect(control).catch(() => null), 20_000)
  const { pid } = (await client.status()) as { pid: number }
  client.close()
  onTestFinished(async () => {
    const last = await OperatorClient.connect(control).catch(() => null)
    const now = (await last?.status().catch(() => null)) as { pid: number } | undefined
    last?.close()
    if (now !== undefined && now.pid !== pid) process.kill(now.pid, 'SIGKILL')
  })
  return { control, pid, log: () => readFileSync(log, 'utf8'), logBytes: () => statSync(log).size }
}

async function version(control: string, service = 'shop') {
  const member = await join({
    service,
    control,
    hosting: 'daemon',
    upgrade: { probation: 50 },
    drain: { timeout: 0 },
  })
  onTestFinished(() => member.close({ timeout: 0 }))
  await member.ready()
  return member
}

const openFds = (pid: number) => readdirSync(`/proc/${pid}/fd`).length
const resident = (pid: number) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]) / 1024

describe('a daemon that another user attacks', () => {
  it.runIf(NIGHTLY)('answers its own user while it closes sockets that linger for 30 s', async context => {
    needsRoot(context)
    const { control, pid } = await serve({ demo: { list: MAY, put: MAY, remove: MAY } })
    await attack(control, ['linger', 'puts'], { seconds: 3 })
    for (let i = 0; i < 20; i++) expect((await status(control)).pid).toBe(pid)
  })

  it('serves its own user while the other fills incomplete messages with descriptors', async context => {
    needsRoot(context)
    const { control, pid } = await serve({ demo: { list: MAY, join: MAY } })
    await version(control)
    const before = openFds(pid)
    await attack(control, ['half_fds'], { seconds: 2 })
    await attack(control, ['bundle'], { seconds: 2 })
    let most = 0
    for (let i = 0; i < 10; i++) {
      most = Math.max(most, openFds(pid))
      await status(control)
    }
    await version(control)
    // The user's connections, the descriptors that it has sent, and those of the messages that the daemon is reading now.
    expect(most - before).toBeLessThan((DESCRIPTORS / 16) * 2 + 2 * 253)
  })

  it.runIf(NIGHTLY)(
    'answers its own user, and upgrades, while it has files whose file system never answers',
    async context => {
      needsSilentFiles(context)
      const { control, pid } = await serve({ demo: { list: MAY, put: MAY, remove: MAY } })
      await attack(control, ['silent_files'], { seconds: 600 })
      using client = await OperatorClient.connect(control)
      await until(
        'it has some',
        async () => ((await client.status()) as { descriptors: number }).descriptors > 0,
      )
      let upgraded = false
      const upgrade = client.upgrade({ service: 'fd-broker.daemon' }).finally(() => {
        upgraded = true
      })
      while (!upgraded) await status(control)
      await upgrade
      expect((await status(control)).pid).not.toBe(pid)
    },
  )

  it.runIf(NIGHTLY)(
    'receives no more descriptors of the other user while those that it has received wait to be closed',
    async context => {
      needsRoot(context)
      const { control, pid } = await serve({ demo: { list: MAY } })
      const before = openFds(pid)
      const attacks = Array.from({ length: 3 }, (_, seed) =>
        attack(control, ['linger_many'], { seconds: 2, seed }),
      )
      let most = 0
      for (const { ended } of await Promise.all(attacks)) {
        let over = false
        void ended.then(() => {
          over = true
        })
        while (!over) {
          most = Math.max(most, openFds(pid) - before)
          await status(control)
        }
      }
      // The share of the user: descriptors, connections, and one message.
      expect(most).toBeLessThan((DESCRIPTORS / 16) * 2 + 253)
    },
  )

  it('keeps no large message of a user that may only list', async context => {
    needsRoot(context)
    const { control, pid } = await serve({ demo: { list: MAY } })
    const before = resident(pid)
    await attack(control, ['half_memory', 'slow_reader'], { seconds: 2 })
    for (let i = 0; i < 10; i++) await status(control)
    expect(resident(pid) - before).toBeLessThan(64)
  })

  it.runIf(NIGHTLY)('repeats no long name, neither to the user nor in its log', async context => {
    needsRoot(context)
    const { control, logBytes } = await serve({ demo: { list: MAY, claim: MAY, remove: MAY } })
    const user = await SecondUser.start()
    const name = 'a'.repeat(60_000)
    const before = logBytes()
    for (const intent of ['JOIN', 'BACK', 'FOLLOW', 'DRAINING'] as const) {
      const heard = await user.say({ as: intent, control, bodies: [hello(intent, name)], answers: [] })
      expect(heard?.reject).toMatchObject({
        code: 'ERR_FDB_SERVICE',
        message: expect.stringMatching(/60000 characters/),
      })
    }
    for (const op of [4, 5, 6, 7])
      expect((await user.asks(control, { op, name })).code).toBe('ERR_FDB_OPTION')
    for (const body of [
      { command: { name: 'x', service: name } },
      { command: { name, service: 'demo' } },
      { upgradeRequest: { service: name } },
    ])
      expect(
        await user.say({
          as: 'op',
          control,
          bodies: [hello('OPERATE', ''), body],
          answers: ['commandReply', 'result'],
        }),
      ).not.toBe(null)
    expect(logBytes() - before).toBeLessThan(10_000)
  })

  it.runIf(NIGHTLY)(
    'upgrades although a successor of the other user’s service never becomes ready',
    async context => {
      needsRoot(context)
      const { control, pid } = await serve({ demo: { join: MAY } })
      const user = await SecondUser.start()
      const joined = await user.say({
        as: 'first',
        control,
        bodies: [hello('JOIN', 'demo')],
        answers: ['offer'],
      })
      expect(joined?.offer).toBeDefined()
      await until('its handoff has begun', async () => {
        const { services } = await status(control)
        return services.find(({ service }) => service === 'demo')?.phase !== 'idle'
      })
      using client = await OperatorClient.connect(control)
      await client.upgrade({ service: 'fd-broker.daemon' })
      expect((await status(control)).pid).not.toBe(pid)
    },
  )
})
