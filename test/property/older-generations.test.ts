import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import type { OwnedFd } from '../../src/kernel/index.js'
import { OlderGenerations } from '../../src/member/drain/older-generations.js'
import { openPidfd } from '../../src/os/liveness.js'
import { identify } from '../../src/os/process-identity.js'
import { ChangeNotifier } from '../../src/wire/pending.js'
import { callerWith, linked } from '../holder-support/processes.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'
import { until } from '../processes/until.js'

const PROCESSES = 3
/** The limit of the wait for older generations: longer than the test. */
const LIMIT_MS = 600_000

type Phase = 'leaving' | 'retired' | 'last'

interface Step {
  readonly of: number
  readonly what: 'connect' | 'drop' | 'kill' | Phase
}

const STEP: fc.Arbitrary<Step> = fc.record({
  of: fc.nat(PROCESSES - 1),
  what: fc.constantFrom('connect', 'connect', 'drop', 'drop', 'leaving', 'retired', 'last', 'kill'),
})

/** A process of an older generation, with its phase as the service should see it. */
class Older {
  readonly #process: ChildProcess
  #far: ReturnType<typeof linked>['far'] | null = null
  phase: 'unknown' | Phase = 'unknown'
  /** The process had clients when it lost its connection, and may still have them. */
  isLost = false
  isAlive = true

  private constructor(process: ChildProcess) {
    this.#process = process
  }

  static async start(): Promise<Older> {
    const process = spawn('sleep', ['600'], { stdio: 'ignore' })
    onTestFinished(() => void process.kill('SIGKILL'))
    await once(process, 'spawn')
    return new Older(process)
  }

  get isConnected(): boolean {
    return this.#far !== null
  }

  get hasClients(): boolean {
    return this.isConnected ? this.phase === 'unknown' || this.phase === 'leaving' : this.isLost
  }

  connect(to: OlderGenerations): void {
    if (this.isConnected || !this.isAlive) return
    const pid = this.#process.pid!
    const { far, link } = linked()
    this.#far = far
    this.phase = 'unknown'
    this.isLost = false
    to.add(
      callerWith({
        pid,
        link,
        pidfd: openPidfd(pid) as OwnedFd,
        identity: identify(pid),
        intent: 'draining',
      }),
    )
  }

  drop(): void {
    if (!this.isConnected) return
    this.isLost = this.hasClients && this.isAlive
    this.#far!.close()
    this.#far = null
  }

  report(phase: Phase): void {
    if (!this.isConnected) return
    this.phase = phase
    const report = JSON.stringify({ generation: 1, phase, connections: phase === 'leaving' ? 1 : 0 })
    this.#far!.post({ heartbeat: { healthy: true, report } })
  }

  /** Ends the process, and so its connection. */
  async kill(): Promise<void> {
    if (!this.isAlive) return
    this.isAlive = false
    const exit = once(this.#process, 'exit')
    this.#process.kill('SIGKILL')
    await exit
    this.drop()
    this.isLost = false
  }
}

it('a service that ends waits exactly for the older generations that may have clients, however often they lose their connection', async () => {
  const property = fc.asyncProperty(fc.array(STEP, { minLength: 3, maxLength: 12 }), async steps => {
    const older = new OlderGenerations({
      settings: { drainGenerations: 100, drainTimeout: LIMIT_MS, logger: SILENT },
      origin: { generation: 2, serviceStartedAt: 0 },
      changes: new ChangeNotifier(),
      segmentSet: { since: () => ({ items: [], release() {} }) } as never,
      moves: { receive() {} },
      state: {} as never,
    })
    const all = await Promise.all(Array.from({ length: PROCESSES }, () => Older.start()))
    for (const each of all) each.connect(older)
    older.end(LIMIT_MS)
    let isOver = false
    const over = older.ended().then(() => {
      isOver = true
    })
    const seen = () => older.reports.map(({ phase }) => phase).sort()
    for (const { of, what } of steps) {
      const each = all[of]!
      if (what === 'connect') each.connect(older)
      else if (what === 'drop') each.drop()
      else if (what === 'kill') await each.kill()
      else each.report(what)
      const connected = all.filter(({ isConnected }) => isConnected)
      const expected = connected.map(({ phase }) => phase).sort()
      await until('the process has heard', () => isOver || String(seen()) === String(expected), 2_000, seen)
      if (all.some(({ hasClients }) => hasClients)) {
        for (let turn = 0; turn < 5; turn++) await nextTurn()
        expect(isOver).toBe(false)
      } else {
        await until('the service ends', () => isOver, 2_000)
        break
      }
    }
    for (const each of all) await each.kill()
    await over
  })
  const back: Step[] = [
    { of: 0, what: 'retired' },
    { of: 1, what: 'last' },
    { of: 2, what: 'drop' },
    { of: 2, what: 'connect' },
    { of: 2, what: 'retired' },
  ]
  const dies: Step[] = [...back.slice(0, 3), { of: 2, what: 'kill' }]
  await fc.assert(property, { numRuns: perLane(8, 200), examples: [[back], [dies]], endOnFailure: true })
})
