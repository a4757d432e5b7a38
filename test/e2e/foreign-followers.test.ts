import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { serveDaemon } from '../../src/daemon/daemon.js'
import { join } from '../../src/member/joining/join.js'
import { json } from '../../src/state/codec.js'
import { defineSection } from '../../src/state/schema.js'
import { FORWARDS_WRITES } from '../../src/wire/link.js'
import { NIGHTLY } from '../lanes/lane.js'
import type { DaemonStatus } from '../processes/daemon.js'
import { hello } from '../processes/raw-peer.js'
import { needsRoot, SECOND_UID, SecondUser } from '../processes/second-user.js'
import { until } from '../processes/until.js'

const FOLLOWER = fileURLToPath(new URL('../fixtures/foreign-follower.mjs', import.meta.url))
const TIMES = { probation: 50, heartbeat: 50 }
const ACL = defineSection({ version: 1, codec: json<string>() })

/** A daemon with this configuration, and a service "shop" of the daemon's user with one entry. */
async function serve(services: object) {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-followers-'))
  chmodSync(folder, 0o755)
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = joinPath(folder, 'c.sock')
  const config = joinPath(folder, 'broker.json')
  writeFileSync(config, JSON.stringify({ services }))
  const daemon = await serveDaemon({ control, config, upgrade: TIMES })
  onTestFinished(() => daemon.close())
  const version = async () => {
    const member = await join({
      service: 'shop',
      control,
      hosting: 'daemon',
      upgrade: TIMES,
      drain: { timeout: 0 },
    })
    onTestFinished(() => member.close({ timeout: 0 }))
    const acl = member.section('acl', ACL)
    await member.ready()
    await until('its probation is over', async () => {
      const { services } = (await daemon.status()) as Pick<DaemonStatus, 'services'>
      return services.find(({ service }) => service === 'shop')?.phase === 'idle'
    })
    return { member, acl }
  }
  const { acl } = await version()
  await acl.put('alice', 'user')
  return { control, acl, version }
}

function followHello(service: string, has: { top?: number; serviceStartedAt?: number } = {}) {
  const { hello: said } = hello('FOLLOW', service)
  return { hello: { ...said, ...has, capabilities: [FORWARDS_WRITES] } }
}

const MAY = [{ uid: SECOND_UID }]

describe('another user that may follow a service', () => {
  it('reads it, in memory that it can neither write, nor open for writing, nor seal', async context => {
    needsRoot(context)
    const { control, acl } = await serve({ shop: { follow: MAY } })
    const user = await SecondUser.start()
    const welcomed = await user.say({ as: 'f', control, bodies: [followHello('shop')], answers: ['welcome'] })
    expect(welcomed?.reject).toBe(undefined)
    const pried = await until('the segments have come', async () => {
      const found = await user.pry('f')
      const read = found.some(({ text }) => text.includes('alice'))
      return read ? found.filter(({ link }) => link.includes('fdb-state')) : null
    })
    for (const one of pried) {
      expect(one).toMatchObject({ mode: '600', reopened: 'EACCES', written: 'EBADF', sealed: 'EPERM' })
      // A process that holds on to its pages prevents no seal of the service.
      expect(one.link).toMatch(/fdb-state-\d+-copy/)
    }
    await acl.put('bob', 'user')
    await until('it reads what is written later', async () =>
      (await user.pry('f')).some(({ text }) => text.includes('bob')),
    )
    expect(acl.get('alice')).toBe('user')
  })

  it('reads what was written while it was away', async context => {
    needsRoot(context)
    const { control, acl } = await serve({ shop: { follow: MAY } })
    const user = await SecondUser.start()
    const reads = (as: string, key: string) =>
      until(`it reads ${key}`, async () => (await user.pry(as)).some(({ text }) => text.includes(key)))
    const first = await user.say({
      as: 'first',
      control,
      bodies: [followHello('shop')],
      answers: ['welcome'],
    })
    await reads('first', 'alice')
    await user.leave('first')
    await acl.put('bob', 'user')
    const { serviceStartedAt } = first!.welcome!
    const known = followHello('shop', { top: 2, serviceStartedAt: serviceStartedAt! })
    // One that comes before the daemon has noticed that it left still has the copies to which the daemon adds.
    await until('its copies are new ones', async () => {
      const again = await user.say({ as: 'again', control, bodies: [known], answers: ['welcome'] })
      if (again?.welcome?.serviceStartedAt !== serviceStartedAt) return true
      await user.leave('again')
      return false
    })
    await reads('again', 'bob')
  })

  it('does not change it, nor join it', async context => {
    needsRoot(context)
    const { control, acl } = await serve({ shop: { follow: MAY } })
    const user = await SecondUser.start()
    const bodies = [followHello('shop'), { write: { number: 1, request: 'one' } }]
    const written = await user.say({ as: 'w', control, bodies, answers: ['written'] })
    expect(written?.written).toMatchObject({ code: 'ERR_FDB_DENIED' })
    for (const intent of ['JOIN', 'BACK', 'DRAINING'] as const) {
      const refused = await user.say({ as: intent, control, bodies: [hello(intent)], answers: ['welcome'] })
      expect([intent, refused?.reject?.code]).toEqual([intent, 'ERR_FDB_DENIED'])
    }
    expect([...acl.entries()]).toEqual([['alice', 'user']])
  })

  it.runIf(NIGHTLY)('follows it across upgrades', async context => {
    needsRoot(context)
    const { control, version } = await serve({ shop: { follow: MAY }, reader: { join: MAY } })
    const user = ['setpriv', `--reuid=${SECOND_UID}`, `--regid=${SECOND_UID}`, '--clear-groups']
    const [file = '', ...args] = [...user, process.execPath, FOLLOWER, control]
    const child = spawn(file, args, {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, NODE_OPTIONS: '' },
    })
    onTestFinished(() => void child.kill('SIGKILL'))
    const lines: string[] = []
    createInterface(child.stdout).on('line', line => lines.push(line))
    const said = (what: string) =>
      until(
        what,
        () => lines.includes(what),
        10_000,
        () => lines,
      )
    await said('{"alice":"user"}')
    for (const key of ['bob', 'carol']) {
      const { acl } = await version()
      await acl.put(key, 'user')
      await until(
        `it reads ${key}`,
        () => lines.at(-1)?.includes(key),
        10_000,
        () => lines,
      )
    }
    child.stdin.write('x')
    await said('ERR_FDB_DENIED')
  })
})

describe('another user that may not follow a service', () => {
  it('gets a refusal, also where it may join another one', async context => {
    needsRoot(context)
    const { control } = await serve({ shop: { list: MAY }, reader: { join: MAY } })
    const user = await SecondUser.start()
    const answer = await user.say({ as: 'f', control, bodies: [followHello('shop')], answers: ['welcome'] })
    expect(answer?.reject?.code).toBe('ERR_FDB_DENIED')
    expect(await user.pry('f')).toEqual([])
  })

  it.runIf(NIGHTLY)(
    'gets a refusal where it may join the service, and a rule says which users follow',
    async context => {
      needsRoot(context)
      const { control } = await serve({ shop: { join: ['owner', ...MAY], follow: ['owner'] } })
      const user = await SecondUser.start()
      const answer = await user.say({ as: 'f', control, bodies: [followHello('shop')], answers: ['welcome'] })
      expect(answer?.reject?.code).toBe('ERR_FDB_DENIED')
    },
  )
})
