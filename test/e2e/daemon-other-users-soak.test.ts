import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join } from '../../src/member/joining/join.js'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY } from '../lanes/lane.js'
import { attack } from '../processes/attacker.js'
import { ownersStatus as status } from '../processes/owner.js'
import { needsSilentFiles } from '../processes/second-user.js'
import { pause, until } from '../processes/until.js'

const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))
const DESCRIPTORS = 1_024
/** Length of the soak, and its seed: `FD_BROKER_SOAK_SECONDS`, `FD_BROKER_SOAK_SEED`. */
const SECONDS = Number(process.env.FD_BROKER_SOAK_SECONDS ?? 600)
const SEED = Number(process.env.FD_BROKER_SOAK_SEED ?? Date.now() % 1_000_000)
const ROUND_SECONDS = 8
/**
 * The promise: the owner's status within this time, on a machine that is not busy. A control measures the machine's share: a daemon that is not
 * attacked and answers the same process at the same instants; and the kernel counts how long the main threads of the attacked daemon and of this
 * process were ready to run and waited for a processor (/proc/PID/schedstat), one after the other: the attackers use processors as any user may, and
 * are not the daemon's to slow down. The remainder is the daemon's own: it ran, for others or for this answer, or was blocked.
 */
const STATUS_MS = 100

/** The users, each with its rights, and what it can do with them. */
const ANYONES = ['linger', 'linger_many', 'connect_flood', 'big_name', 'garbage']
const OPERATORS = [
  ...ANYONES,
  'half_fds',
  'half_memory',
  'slow_reader',
  'list_flood',
  'status_flood',
  'big_descriptor_name',
  'silent_files',
]
const USERS = [
  { uid: 12_001, may: ['list'], attacks: OPERATORS },
  { uid: 12_002, may: ['list', 'put', 'claim', 'remove'], attacks: [...OPERATORS, 'puts'] },
  { uid: 12_003, may: ['list', 'join', 'follow'], attacks: [...OPERATORS, 'bundle', 'silent_member'] },
  { uid: 12_004, may: ['join'], attacks: [...ANYONES, 'bundle', 'silent_member'] },
  { uid: 12_005, may: ['list', 'operate'], attacks: OPERATORS },
  { uid: 12_006, may: [], attacks: ANYONES },
]

/** Numbers from 0 to 1 that follow from the seed (mulberry32). */
function chance(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

function serviceOf(uid: number): string {
  return `of-${uid}`
}

async function serve(services: object) {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-soak-'))
  chmodSync(folder, 0o755)
  const control = joinPath(folder, 'c.sock')
  const config = joinPath(folder, 'broker.json')
  writeFileSync(config, JSON.stringify({ services }))
  const script = `ulimit -n ${DESCRIPTORS}; exec "$0" "$@" >>"$LOG" 2>&1`
  const args = ['-c', script, process.execPath, CLI, 'serve', '--control', control, '--config', config]
  const env = { ...process.env, NODE_OPTIONS: '', LOG: joinPath(folder, 'log') }
  spawn('/bin/sh', args, { stdio: 'ignore', env })
  const first = await until('it listens', () => status(control).catch(() => null), 20_000)
  let { pid } = first
  onTestFinished(async () => {
    pid = (await status(control).catch(() => ({ pid }))).pid
    process.kill(pid, 'SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  })
  return { control, pid }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now()
  await work()
  return performance.now() - startedAt
}

/** Milliseconds for which the main thread of a process has run, and has waited for a processor. */
function timesOf(pid: number): { ran: number; waited: number } {
  try {
    const [ran, waited] = readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')
    return { ran: Number(ran) / 1e6, waited: Number(waited) / 1e6 }
  } catch {
    return { ran: 0, waited: 0 }
  }
}

async function version(control: string) {
  const member = await join({
    service: 'shop',
    control,
    hosting: 'daemon',
    timeout: 20_000,
    upgrade: { probation: 50 },
    drain: { timeout: 0 },
  })
  await member.ready()
  return member
}

/** Descriptors and memory of a process; none of a daemon that has handed over, and ended, since it answered. */
function holdingsOf(pid: number): { fds: number; mib: number } {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1')
    const kib = /VmRSS:\s+(\d+)/.exec(status)?.[1] ?? 0
    return { fds: readdirSync(`/proc/${pid}/fd`).length, mib: Number(kib) / 1024 }
  } catch (error) {
    if (!['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    return { fds: 0, mib: 0 }
  }
}

describe('a daemon at which other users have some rights', () => {
  it.runIf(NIGHTLY)(
    'serves its own user as before, within their shares, whatever they do',
    async context => {
      needsSilentFiles(context)
      process.stdout.write(`seed ${SEED}, ${SECONDS} s\n`)
      const random = chance(SEED)
      const services = Object.fromEntries(
        USERS.map(({ uid, may }) => [
          serviceOf(uid),
          Object.fromEntries(may.map(action => [action, ['owner', { uid }]])),
        ]),
      )
      const { control, pid } = await serve(services)
      // A daemon that is not attacked, on the same machine: what it takes, the machine takes.
      const reference = await serve({})
      let member = await version(control)
      onTestFinished(() => member.close({ timeout: 0 }))
      const start = holdingsOf(pid)
      let now = pid
      const found = {
        statuses: 0,
        /** Answers above the limit; those of the control; those where the control was fast; those where the daemon's own time was above it. */
        above: 0,
        control: 0,
        late: 0,
        own: 0,
        worst: 0,
        worstControl: 0,
        worstOwn: 0,
        upgrades: 0,
        daemons: 0,
        fds: 0,
        mib: 0,
      }
      const endsAt = performance.now() + SECONDS * 1_000
      for (let round = 0; performance.now() < endsAt; round++) {
        const users = USERS.filter(() => random() < 0.5)
        const starting = Promise.all(
          users.map(({ uid, attacks }) => {
            const chosen = attacks.filter(() => random() < 0.4)
            const names = chosen.length > 0 ? chosen : [attacks[Math.floor(random() * attacks.length)]!]
            const seed = Math.floor(random() * 2 ** 31)
            return attack(control, names, {
              uid,
              service: serviceOf(uid),
              seed,
              seconds: ROUND_SECONDS,
              nice: 19,
            })
          }),
        )
        let stopped = false
        const probing = (async () => {
          while (!stopped) {
            const [asked, before, self] = [now, timesOf(now), timesOf(process.pid)]
            let [ran, waited, waitedHere] = [0, 0, 0]
            const ask = async () => {
              now = (await status(control)).pid
              const after = timesOf(now)
              if (now === asked) [ran, waited] = [after.ran - before.ran, after.waited - before.waited]
              waitedHere = timesOf(process.pid).waited - self.waited
            }
            const [took, machine] = await Promise.all([timed(ask), timed(() => status(reference.control))])
            const own = machine > STATUS_MS ? 0 : Math.max(ran, took - waited - waitedHere)
            if (took > STATUS_MS) {
              const facts = { took, machine, ran, waited, waitedHere, upgraded: now !== asked }
              process.stdout.write(
                `slow: ${JSON.stringify(facts, (_, value) => (typeof value === 'number' ? Math.round(value) : value))}\n`,
              )
            }
            found.statuses++
            found.worst = Math.max(found.worst, took)
            found.worstControl = Math.max(found.worstControl, machine)
            found.worstOwn = Math.max(found.worstOwn, own)
            if (took > STATUS_MS) found.above++
            if (machine > STATUS_MS) found.control++
            if (took > STATUS_MS && machine <= STATUS_MS) found.late++
            if (own > STATUS_MS) found.own++
            const held = holdingsOf(now)
            found.fds = Math.max(found.fds, held.fds - start.fds)
            found.mib = Math.max(found.mib, held.mib - start.mib)
            await pause(50)
          }
        })()
        const attackers = await starting
        const next = await version(control)
        found.upgrades++
        await member.close({ timeout: 0 })
        member = next
        if (round % 2 === 1) {
          using client = await OperatorClient.connect(control)
          await client.upgrade({ service: 'fd-broker.daemon', timeout: 60_000 })
          found.daemons++
        }
        for (const attacker of attackers) await attacker.ended
        stopped = true
        await probing
        process.stdout.write(`round ${round}: ${JSON.stringify(found)}\n`)
      }
      // Two shares of each kind for all users together, and the messages that are being read.
      expect(found.fds).toBeLessThan(DESCRIPTORS / 2 + 253)
      expect(found.mib).toBeLessThan(256 + 128)
      expect(found.own).toBeLessThanOrEqual(found.statuses / 1_000)
      expect(found.upgrades).toBeGreaterThan(0)
      // Users may leave descriptors in the daemon, within their shares: its owner removes them.
      using client = await OperatorClient.connect(control)
      for (const { name } of await client.descriptors.list()) await client.descriptors.remove(name)
      await until('the daemon has its descriptors again', () => holdingsOf(now).fds <= start.fds + 16, 60_000)
    },
    SECONDS * 1_000 + 120_000,
  )
})
