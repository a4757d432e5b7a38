import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Agent } from 'node:http'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { statusText } from '../../src/cli/status.js'
import { OperatorClient } from '../../src/operator/client.js'
import { ROLLBACK, readProcessReply, STOP, stopBody } from '../../src/operator/service-commands.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App, AppConfig } from '../processes/app.js'
import { ask, whoServes } from '../processes/client.js'
import { servedBy, serviceStatus, serviceWhere, startDaemon } from '../processes/daemon.js'
import { loadOn } from '../processes/load.js'
import { freePort, Scene } from '../processes/scene.js'
import { builtMember, has, MEMBERS, type MemberLanguage } from '../processes/toolchains.js'
import { pause, until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const UPGRADE = { probation: 100, heartbeat: 50 }
/** A process stands by for as long as the test takes. */
const WATCHED = { ...UPGRADE, probation: 60_000 }
const BUILD_MS = 180_000
/** More of it is `npm run soak -- languages`. */
const ROUNDS = Number(process.env.FD_BROKER_LANGUAGES_ROUNDS ?? 1)

type Language = MemberLanguage | 'node'

async function open(upgrade: object = UPGRADE): Promise<{ scene: Scene; target: string; daemon: App }> {
  const port = await freePort()
  const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }]
  const scene = Scene.open({ hosting: 'daemon', upgrade: { ...UPGRADE, ...upgrade }, listeners })
  const daemon = await startDaemon(scene, { upgrade: UPGRADE })
  return { scene, target: `http://127.0.0.1:${port}`, daemon }
}

/** The app of the tests in that language, started as app.mjs is. */
async function start(scene: Scene, language: Language, config: AppConfig = {}): Promise<App> {
  if (language === 'node') return await scene.start(config)
  const { command, env } = await builtMember(language)
  return await scene.start(config, {
    wrap: ['sh', '-c', 'exec $FDB_MEMBER'],
    env: { ...env, FDB_MEMBER: command },
  })
}

async function serve(scene: Scene, language: Language, config?: AppConfig): Promise<App> {
  return await (await start(scene, language, config)).serving()
}

const node = async (scene: Scene) => await serve(scene, 'node')

/** How often it began to serve. */
const served = (app: App): number => app.said.filter(({ msg }) => /-> serving /.test(msg ?? '')).length

const there = MEMBERS.filter(({ tool }) => has(tool)).map(({ language }) => language)
/** At night every ordered pair of Node, Python and Go; in the long run also a language and itself. Without those whose toolchain is not there. */
const PAIRS = perLane<readonly Language[]>(
  ['node', 'python', 'go', 'node'],
  ['node', 'python', 'go', 'node', 'go', 'python', 'node'],
)
const ALL_PAIRS = ['node', 'node', 'python', 'python', 'go', 'go', 'node', 'go', 'python', 'node'] as const
const CHAIN: readonly Language[] = (ROUNDS > 1 ? ALL_PAIRS : PAIRS).filter(
  language => language === 'node' || there.includes(language),
)

/** Clients that count up over connections that last, until they are stopped: each answer is the number that the count has come to. */
function counting(target: string, clients: number) {
  const counts: number[] = []
  let over = false
  const one = async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 })
    while (!over) {
      const { status, body } = await ask(`${target}/count`, { method: 'POST', agent }).answer
      if (status !== 200) throw new Error(`${status}: ${body}`)
      counts.push(Number(body))
      if (!NIGHTLY) await pause(5)
    }
    agent.destroy()
  }
  const all = Promise.all(Array.from({ length: clients }, one))
  all.catch(() => {})
  return {
    counts,
    more: async (count: number) => {
      const before = counts.length
      const enough = until(`${count} more`, () => counts.length >= before + count, 20_000)
      await Promise.race([enough, all])
    },
    stop: async () => {
      over = true
      await all
    },
  }
}

describe.skipIf(there.length === 0)('members in several languages (skipped without python3 and go)', () => {
  it.runIf(NIGHTLY)(
    `replace each other under load (${CHAIN.join(', ')}): no request fails, no write is lost, each increment is made once`,
    async () => {
      for (const language of there) await builtMember(language)
      const { scene, target } = await open()
      const settled = (app: App) =>
        serviceWhere(
          scene,
          `${app.name} serves alone`,
          ({ pid, phase }) => pid === app.pid && phase === 'idle',
        )
      let serving = await node(scene)
      const left: App[] = []
      const load = await loadOn(target, { rate: perLane(80, 200), writes: 40, slow: 1 })
      const clients = counting(target, perLane(2, 4))
      for (let round = 0; round < ROUNDS; round++) {
        for (const language of CHAIN.slice(1)) {
          await load.mark(language)
          const next = await serve(scene, language)
          await load.answeredBy(next.pid, 20)
          await settled(next)
          await clients.more(perLane(30, 100))
          left.push(serving)
          serving = next
        }
      }
      await clients.stop()
      expect(clients.counts.sort((a, b) => a - b)).toEqual(clients.counts.map((_, i) => i + 1))
      for (const app of left) {
        await app.end(30_000)
        expect(app.find('ended')).toMatchObject({ why: 'replaced' })
        expect(app.find('refused')).toBeUndefined()
      }
      await load.stop()
      // While no process writes, each says the same of the state.
      const { sequence, digest } = (await settled(serving)).state
      for (const language of there) {
        const app = await serve(scene, language)
        expect(app.find('serving')?.position).toMatchObject({ sequence, digest })
        await settled(app)
      }
    },
    BUILD_MS + ROUNDS * 60_000,
  )
})

for (const { language, name, tool } of MEMBERS) {
  describe.skipIf(!has(tool))(`a member in ${name} (skipped without ${tool})`, () => {
    beforeAll(async () => void (await builtMember(language)), BUILD_MS)

    it.runIf(NIGHTLY)('comes back when it dies in probation, and when its successor does', async () => {
      const { scene, target } = await open(WATCHED)
      const first = await node(scene)
      const load = await loadOn(target, { rate: 100, writes: 0, slow: 0, streams: 0 })
      const dying = await serve(scene, language)
      await load.answeredBy(dying.pid)
      await first.says('retiring')
      await dying.kill()
      await first.says('reinstated')
      await load.answeredBy(first.pid)

      const own = await serve(scene, language)
      await load.answeredBy(own.pid)
      await servedBy(scene, own)
      await first.kill()
      await serviceWhere(scene, 'nobody stands by', ({ phase }) => phase === 'idle')
      const successor = await node(scene)
      await load.answeredBy(successor.pid)
      await servedBy(scene, successor)
      await successor.kill()
      await until(
        'the member serves again',
        () => served(own) === 2,
        20_000,
        () => own.output,
      )
      await load.answeredBy(own.pid)
      expect(await serviceStatus(scene)).toMatchObject({ pid: own.pid })
      // Requests on their way to a process that was killed are lost with it. No connect was refused, and no answer was wrong.
      await load.stop(['reset', 'dropped', 'truncated', 'raced'])
    })

    it.runIf(NIGHTLY)('says in probation that it is not well, and the one before serves again', async () => {
      const { scene } = await open(WATCHED)
      const first = await node(scene)
      const sickFile = scene.file('sick')
      const sick = await serve(scene, language, { sickFile })
      await first.says('retiring')
      scene.write('sick', '')
      await first.says('reinstated')
      await sick.end()
      const status = await servedBy(scene, first)
      expect(status).toMatchObject({
        blockedBy: [],
        lastFailure: { phase: 'probation', code: 'ERR_FDB_UNHEALTHY' },
      })
    })

    it.runIf(NIGHTLY || language === 'python')(
      'takes no connections: a Node that it replaced tells its clients at once that theirs end',
      async () => {
        const { scene, target } = await open(WATCHED)
        const first = await node(scene)
        const agent = new Agent({ keepAlive: true, maxSockets: 1 })
        onTestFinished(() => agent.destroy())
        await ask(`${target}/whoami`, { agent }).answer
        await serve(scene, language)
        await first.says('retiring')
        // In the two seconds that others are waited for, there would be hundreds.
        let kept = 0
        for (;;) {
          const { headers } = await ask(`${target}/whoami`, { agent }).answer
          if (headers['x-pid'] !== String(first.pid) || headers.connection === 'close') break
          kept++
        }
        expect(kept).toBeLessThan(30)
      },
    )

    it.runIf(NIGHTLY || language === 'python')(
      'makes the changes itself that wait for its successor when that dies, each once',
      async () => {
        const { scene, target } = await open(WATCHED)
        const first = await serve(scene, language)
        const agent = new Agent({ keepAlive: true })
        onTestFinished(() => agent.destroy())
        const count = async () => {
          const { status, body } = await ask(`${target}/count`, { method: 'POST', agent }).answer
          return `${status} ${body}`
        }
        const clients = Array.from({ length: 8 }, (_, n) => n)
        await Promise.all(clients.map(() => ask(`${target}/slow?ms=50`, { agent }).answer))
        const successor = await node(scene)
        await servedBy(scene, successor)
        expect(await count()).toBe('200 1')
        process.kill(successor.pid, 'SIGSTOP')
        const waiting = clients.slice(1).map(count)
        await until(
          'the changes are forwarded',
          () => first.said.filter(({ say }) => say === 'forwards').length === 8,
        )
        await successor.kill()
        expect((await Promise.all(waiting)).sort()).toEqual(clients.slice(1).map(n => `200 ${n + 1}`))
      },
    )

    it.runIf(NIGHTLY || language === 'python')(
      'keeps a listener of the previous version that it asks for only in its probation',
      async () => {
        const { scene } = await open({ probation: 3_000 })
        const late = { name: 'late', spec: `unix:${scene.file('late.sock')}` }
        const first = await serve(scene, 'node', { listeners: [late] })
        const second = await serve(scene, language, { listeners: [], lateListeners: [late] })
        expect(await second.says('listener')).toMatchObject({ adopted: true })
        await first.says('retired')
        const third = await serve(scene, 'node', { listeners: [late] })
        expect(await third.says('listener')).toMatchObject({ adopted: true })
      },
    )

    it('answers the clients of a listener that the next version has not, or at another address', async () => {
      const { scene } = await open({ probation: 1_000 })
      const ports = await Promise.all(Array.from({ length: 5 }, freePort))
      const at = (name: string, n: number) => ({ name, spec: `tcp://127.0.0.1:${ports[n]}` })
      const waiting = async (n: number) => {
        const agent = new Agent()
        return await Promise.all(
          Array.from({ length: 3 }, async () => {
            const { status, headers } = await ask(`http://127.0.0.1:${ports[n]}/whoami`, { agent }).answer
            return `${status} ${headers['x-pid']}`
          }),
        )
      }
      const thrice = ({ pid }: App) => [1, 2, 3].map(() => `200 ${pid}`)
      const first = await serve(scene, 'node', { listeners: [at('web', 0), at('old', 1)] })
      const second = await serve(scene, language, { listeners: [at('web', 0), at('old', 2), at('more', 3)] })
      expect(await waiting(1)).toEqual(thrice(first))
      await first.says('retired')
      const third = await serve(scene, 'node', { listeners: [at('web', 0), at('old', 4)] })
      expect(await Promise.all([2, 3, 4].map(waiting))).toEqual([second, second, third].map(thrice))
      await second.end()
    })

    it('leaves without a successor when the requests in flight have changed the state', async () => {
      const { scene, target } = await open()
      const changing = async (app: App, ms: number) => {
        const answer = ask(`${target}/count?ms=${ms}`, { method: 'POST' }).answer
        await app.says('counting')
        return async () => {
          const { status, body } = await answer
          return `${status} ${body}`
        }
      }
      const first = await serve(scene, language)
      const atSignal = await changing(first, 100)
      first.signal('SIGTERM')
      expect(await atSignal()).toBe('200 1')
      await first.end()

      const second = await serve(scene, language)
      const atStop = await changing(second, 100)
      using client = await OperatorClient.connect(scene.control)
      await client.command(STOP, stopBody({ timeoutMs: null, drop: false }), { service: 'shop' })
      expect(await atStop()).toBe('200 2')
      await second.end()

      const third = await serve(scene, language)
      const late = await changing(third, 400)
      third.signal('SIGTERM')
      await third.says('retired')
      const next = await node(scene)
      expect(await whoServes(target)).toBe(next.pid)
      expect(await late()).toBe('200 3')
      await third.end()
    })

    it.runIf(NIGHTLY || language === 'python')('tells `status` how large the state is', async () => {
      const { scene } = await open()
      const own = await serve(scene, language)
      expect(statusText(await servedBy(scene, own))).toMatch(
        /^state +100 entries, [\d.]+ KiB in 1 segment, sequence \d+, digest \w{12}$/m,
      )
    })

    it.runIf(NIGHTLY || language === 'python')(
      'ends with `service.stop` in its probation, and the version that stands by does too',
      async () => {
        const { scene } = await open(WATCHED)
        const first = await node(scene)
        const own = await serve(scene, language)
        await first.says('retiring')
        using client = await OperatorClient.connect(scene.control)
        const body = stopBody({ timeoutMs: null, drop: false })
        expect(readProcessReply(await client.command(STOP, body, { service: 'shop' }))).toMatchObject({
          pid: own.pid,
        })
        await own.end()
        await first.end()
        expect(first.find('reinstated')).toBeUndefined()
      },
    )

    it.runIf(NIGHTLY || language === 'python')(
      'leaves with `service.rollback` in its probation, and the version that stands by serves again',
      async () => {
        const { scene } = await open(WATCHED)
        const first = await node(scene)
        const own = await serve(scene, language)
        await first.says('retiring')
        using client = await OperatorClient.connect(scene.control)
        expect(readProcessReply(await client.command(ROLLBACK, '', { service: 'shop' }))).toMatchObject({
          pid: own.pid,
        })
        await first.says('reinstated')
        const { lastFailure } = await servedBy(scene, first)
        expect(lastFailure?.message).toMatch(/: an operator has rolled it back$/)
        await own.end()
        const late = client.command(ROLLBACK, '', { service: 'shop' })
        await expect(late).rejects.toMatchObject({ code: 'ERR_FDB_NO_STANDBY' })
      },
    )

    it.runIf(NIGHTLY || language === 'python')(
      'serves again when fd-broker rollback returns to it, and the command ends',
      async () => {
        const { scene } = await open(WATCHED)
        const first = await serve(scene, language)
        await servedBy(scene, first)
        const second = await node(scene)
        await servedBy(scene, second)
        const back = ['rollback', '--control', scene.control, '--service', 'shop', '--timeout', '10s']
        expect(await Sandbox.open().run(...back)).toEqual({
          code: 0,
          stdout: `generation 1 (pid ${first.pid}) serves again\n`,
          stderr: '',
        })
      },
    )

    it.runIf(NIGHTLY || language === 'python')(
      'says why it does not take over, and the one before serves on',
      async () => {
        const { scene } = await open()
        const first = await node(scene)
        const refusing = await start(scene, language, { check: 'throw' })
        expect(await refusing.failure()).toMatchObject({ code: 'ERR_FDB_CHECK' })
        await refusing.end()
        const status = await serviceWhere(
          scene,
          'the failure is known',
          ({ lastFailure }) => lastFailure !== null,
        )
        expect(status).toMatchObject({
          pid: first.pid,
          blockedBy: [],
          lastFailure: { code: 'ERR_FDB_CHECK' },
        })
        expect(first.find('retiring')).toBeUndefined()
      },
    )

    it.runIf(NIGHTLY)(
      'serves on when the daemon is killed, and comes back to the next one with what it holds',
      async () => {
        const { scene, target, daemon } = await open()
        const own = await serve(scene, language)
        const load = await loadOn(target, { rate: 100, writes: 20, slow: 0, streams: 0 })
        await daemon.kill()
        await startDaemon(scene, { upgrade: UPGRADE })
        await serviceWhere(
          scene,
          'the member is back',
          ({ pid, phase }) => pid === own.pid && phase === 'idle',
        )
        const next = await node(scene)
        await load.answeredBy(next.pid)
        await own.end()
        await load.stop()
      },
    )
  })
}

it.skipIf(!has('python3'))(
  'a Python program that finds no daemon, and lives on, leaves the way to the next version (skipped without python3)',
  async () => {
    const port = await freePort()
    const target = `http://127.0.0.1:${port}`
    const listeners = [{ name: 'web', spec: `tcp://127.0.0.1:${port}` }]
    const scene = Scene.open({ upgrade: UPGRADE, listeners })
    await node(scene)
    const { env } = await builtMember('python')
    const code = [
      'import fd_broker, sys, time',
      'try: fd_broker.join(sys.argv[1], sys.argv[2])',
      'except fd_broker.FdBrokerError as error: print(error.code, flush=True)',
      'time.sleep(60)',
    ].join('\n')
    const program = spawn('python3', ['-c', code, scene.control, scene.defaults.service ?? 'shop'], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    onTestFinished(() => void program.kill('SIGKILL'))
    // Python may write a line and its end apart.
    const [said] = await once(createInterface(program.stdout), 'line')
    expect(said).toBe('ERR_FDB_NOT_A_DAEMON')
    const next = await node(scene)
    expect(await whoServes(target)).toBe(next.pid)
  },
)

describe.skipIf(!has('python3'))('a server on asyncio (skipped without python3)', () => {
  const FILE = fileURLToPath(new URL('../fixtures/app_asyncio.py', import.meta.url))

  async function asyncio(scene: Scene): Promise<App> {
    const { env } = await builtMember('python')
    return await (await scene.start({}, { wrap: ['python3', FILE], env })).serving()
  }

  it.runIf(NIGHTLY)(
    'accepts on the public socket of its listener in its turn: no request fails, and it ends with its last connection',
    async () => {
      const { scene, target } = await open()
      await node(scene)
      const clients = counting(target, 2)
      const own = await asyncio(scene)
      await clients.more(10)
      await serviceWhere(scene, 'it serves alone', ({ pid, phase }) => pid === own.pid && phase === 'idle')
      await node(scene)
      await clients.more(10)
      await own.end()
      expect(own.find('ended')).toMatchObject({ why: 'replaced' })
      await clients.stop()
      expect(clients.counts.sort((a, b) => a - b)).toEqual(clients.counts.map((_, i) => i + 1))
    },
  )

  it('accepts again when its successor dies', async () => {
    const { scene, target } = await open(WATCHED)
    const own = await asyncio(scene)
    const next = await node(scene)
    await servedBy(scene, next)
    expect(await whoServes(target)).toBe(next.pid)
    await next.kill()
    await servedBy(scene, own)
    expect(await whoServes(target)).toBe(own.pid)
  })
})
