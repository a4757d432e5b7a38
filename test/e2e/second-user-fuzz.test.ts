import { spawn } from 'node:child_process'
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join as joinPath } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it, onTestFinished } from 'vitest'
import { join } from '../../src/member/joining/join.js'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { type Fuzzed, fuzz } from '../processes/fuzzing-user.js'
import { ownersStatus as status } from '../processes/owner.js'
import { Scene } from '../processes/scene.js'
import { needsRoot } from '../processes/second-user.js'
import { until } from '../processes/until.js'

/** `FD_BROKER_FUZZ_SEED` plays a seed again, and those after it. */
const SEED = Number(process.env.FD_BROKER_FUZZ_SEED ?? perLane(52, Date.now() % 1_000_000))
const ROUNDS = perLane(1, 20)
const CONVERSATIONS = perLane(20, 300)
const FIRST_UID = 13_001
const DESCRIPTORS = 1_024
const MIB = 256
const ACTIONS = ['list', 'put', 'claim', 'remove', 'operate', 'join', 'follow']
const CLI = fileURLToPath(new URL('../../dist/cli.cjs', import.meta.url))

/** Rights of three users: none, all, and the subset that a number stands for. */
function rightsOf(subset: number): string[][] {
  return [[], ACTIONS, ACTIONS.filter((_, i) => subset & (1 << i))]
}

async function serve(services: object) {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-fuzz-'))
  chmodSync(folder, 0o755)
  const [control = '', config = '', log = ''] = ['c.sock', 'broker.json', 'log'].map(name =>
    joinPath(folder, name),
  )
  writeFileSync(config, JSON.stringify({ services }))
  const script = `ulimit -n ${DESCRIPTORS}; exec "$0" "$@" >"$LOG" 2>&1`
  const args = ['-c', script, process.execPath, CLI, 'serve', '--control', control, '--config', config]
  const daemon = spawn('/bin/sh', args, {
    stdio: 'ignore',
    env: { ...process.env, NODE_OPTIONS: '', LOG: log },
  })
  onTestFinished(async () => {
    const { pid } = await status(control).catch(() => ({ pid: daemon.pid! }))
    process.kill(pid, 'SIGKILL')
    rmSync(folder, { recursive: true, force: true })
  })
  const { pid } = await until('it listens', () => status(control).catch(() => null), 60_000)
  return { control, pid, log: () => readFileSync(log, 'utf8') }
}

/** The owner's work while others hold their conversations: its status is answered all the time, and `upgrade` succeeds. */
async function workMeanwhile(
  control: string,
  fuzzers: readonly Awaited<ReturnType<typeof fuzz>>[],
  upgrade: () => Promise<unknown>,
): Promise<readonly Fuzzed[]> {
  let over = false
  const asking = (async () => {
    while (!over) await status(control)
  })()
  asking.catch(() => {})
  try {
    await upgrade()
    return await Promise.all(fuzzers.map(({ done }) => done))
  } finally {
    over = true
    await asking
    for (const fuzzer of fuzzers) await fuzzer.leave()
  }
}

async function version(control: string) {
  const member = await join({
    service: 'shop',
    control,
    hosting: 'daemon',
    timeout: 60_000,
    upgrade: { probation: 50 },
    drain: { timeout: 0 },
  })
  onTestFinished(() => member.close({ timeout: 0 }))
  await member.ready()
}

const openFds = (pid: number) => readdirSync(`/proc/${pid}/fd`).length
const residentMiB = (pid: number) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1]) / 1024

describe('another user’s conversations of every kind, with descriptors of every kind', () => {
  it(`leave a daemon serving its own user, by seed ${SEED}`, {
    timeout: 120_000 + ROUNDS * 60_000,
  }, async context => {
    needsRoot(context)
    for (let round = 0; round < ROUNDS; round++) {
      const seed = SEED + round
      const users = rightsOf(seed % (1 << ACTIONS.length)).map((may, i) => ({
        uid: FIRST_UID + i,
        service: `of-${i}`,
        may,
      }))
      const services = Object.fromEntries(
        users.map(({ uid, service, may }) => [
          service,
          Object.fromEntries(may.map(action => [action, ['owner', { uid }]])),
        ]),
      )
      const { control, pid, log } = await serve(services)
      await version(control)
      const before = { fds: openFds(pid), mib: residentMiB(pid) }
      const fuzzers = await Promise.all(
        users.map(({ uid, service }, i) =>
          fuzz({ uid, control, service, seed: seed * 10 + i, conversations: CONVERSATIONS }),
        ),
      )
      const fuzzed = await workMeanwhile(control, fuzzers, async () => {
        using client = await OperatorClient.connect(control)
        await client.upgrade({ service: 'fd-broker.daemon', timeout: 120_000 })
      })
      const { pid: now } = await status(control)
      expect(now).not.toBe(pid)
      await version(control)
      expect(openFds(now) - before.fds).toBeLessThan(DESCRIPTORS / 2)
      // A sanitizer keeps memory that was freed.
      if (process.env.ASAN_OPTIONS === undefined) expect(residentMiB(now) - before.mib).toBeLessThan(MIB)
      expect(log().match(/^.*"level":[56]0.*$/m)?.[0]).toBe(undefined)
      expect(new Set(fuzzed.flatMap(({ kinds }) => kinds)).size).toBeGreaterThan(15)
      if (NIGHTLY) process.stdout.write(`seed ${seed}: ${JSON.stringify(fuzzed)}\n`)
      expect(fuzzed.every(({ held }) => held > 0)).toBe(true)
    }
  })

  it('leave a server serving that decides itself, although they reach its control socket', async context => {
    needsRoot(context)
    const scene = Scene.open({ upgrade: { probation: 50 } })
    const app = await scene.serve()
    await scene.status()
    for (const folder of [scene.folder, dirname(scene.control)]) chmodSync(folder, 0o755)
    chmodSync(scene.control, 0o666)
    const { pid } = await status(scene.control)
    const fuzzer = await fuzz({
      uid: FIRST_UID,
      control: scene.control,
      service: 'app',
      seed: SEED,
      conversations: CONVERSATIONS,
    })
    await workMeanwhile(scene.control, [fuzzer], () => scene.serve())
    expect((await status(scene.control)).pid).not.toBe(pid)
    expect(app.output).not.toMatch(/"level":[56]0/)
  })
})
