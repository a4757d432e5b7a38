import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import type { FdbError } from '../../src/errors.js'
import type { Upgraded } from '../../src/operator/requests.js'
import type { Failure } from '../../src/operator/status-report.js'
import { successorCommand } from '../../src/os/command-line.js'
import { isOfAnother, type Lineage, lineageOf } from '../../src/os/lineage.js'
import { identify } from '../../src/os/process-identity.js'
import { type AttemptIncumbent, UpgradeAttempt } from '../../src/versions/upgrade-attempt.js'
import { hasEnded } from './launch.js'
import { until } from './until.js'

/** In a session of its own, started by no upgrade. */
export const OTHER: Lineage = {
  ...{ pid: 1_000_001, session: 1_000_001, ancestors: new Set([1_000_001]) },
  ...{ lastWords: null, sharesPids: true },
}

/** An attempt whose incumbent the test plays. `endAfterMs`: between a failure and the end of the successor. */
export async function attemptWith(argv: readonly string[] = ['sleep', '60'], endAfterMs = 0) {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-attempt-'))
  const control = join(folder, 'no.sock')
  let look = () => {}
  let served: Upgraded | null = null
  const failures = new Map<Failure, Lineage | null>()
  const now = { phase: 'idle', lastFailure: null as Failure | null, joiner: null as Lineage | null }
  const incumbent: AttemptIncumbent = {
    get phase() {
      return now.phase
    },
    get lastFailure() {
      return now.lastFailure
    },
    get joiner() {
      return now.joiner
    },
    failedIn: failure => failures.get(failure) ?? null,
    obstacle: null,
    servedBy: () => served,
    watch: act => {
      look = act
      return () => {}
    },
    cancelHandoff: () => 'idle',
    graceMs: () => 0,
    whenServing: async () => {},
  }
  const told: string[] = []
  const end = new AbortController()
  const attempt = await UpgradeAttempt.start(incumbent, {
    command: successorCommand({ argv }),
    control: control,
    logger: SILENT,
    limitMs: 60_000,
    commitMs: 60_000,
    endAfterMs,
    name: pid => `the successor ${pid}`,
    servesOn: () => 'process 1 serves on',
    progress: ({ phase }) => void told.push(phase),
    signals: [end.signal],
  })
  const { child } = attempt
  const outcome = attempt.outcome.catch(error => error)
  onTestFinished(async () => {
    end.abort()
    // Also one that serves, which the attempt has left alone.
    if (!hasEnded(child.pid)) process.kill(-child.pid, 'SIGKILL')
    await until('the successor has ended', () => hasEnded(child.pid))
    rmSync(folder, { recursive: true })
  })
  /** A process that was started as `lineage` says joins, and fails. */
  const fails = (lineage: Lineage | null, message = 'its check failed', phase = 'offering') => {
    const failure: Failure = { code: 'ERR_FDB_CHECK', message, phase, at: Date.now() }
    Object.assign(now, { phase: 'offering', joiner: lineage })
    look()
    failures.set(failure, lineage)
    Object.assign(now, { phase: 'idle', joiner: null, lastFailure: failure })
    look()
  }
  const serves = (pid: number) => {
    served = { pid, generation: 2 }
    look()
  }
  /** The service enters a phase without a joiner that is known. */
  const enters = (phase: string) => {
    now.phase = phase
    look()
  }
  const cancel = (reason: FdbError) => end.abort(reason)
  return { attempt, cancel, child, control, enters, fails, outcome, serves, told }
}

/** Whether the process comes from another command than `leader`, of which all processes have these last words. */
export function comesFromAnother(pid: number, leader: number, lastWords: string): boolean {
  return isOfAnother(lineageOf(identify(pid)), leader, lastWords)
}
