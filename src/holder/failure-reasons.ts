import { FdbError } from '../errors.js'
import type { Refusal } from '../handoff/holder-machine.js'
import type { Id } from '../handoff/messages.js'
import { type HolderPhase, waitsForSuccessor } from '../handoff/phases.js'
import type { StatePosition } from '../wire/envelope.js'
import type { Peer } from './peer.js'
import { type HandoffTimes, phaseLimit, waitingSilence } from './times.js'

/** Returns the error for a successor that gave no reason before its channel closed. */
export function lostChannel({ pid }: Peer): FdbError {
  return new FdbError('ERR_FDB_SUCCESSOR_LOST', `process ${pid} closed its channel or died before it served`)
}

export interface HandoffFacts {
  readonly phase: HolderPhase
  readonly times: HandoffTimes
  /** In probation: milliseconds since the successor started to serve. */
  readonly servedMs: number
}

/** Returns why a handoff fails if the successor gave no reason. `peer`: the successor, or undefined if the holder has forgotten it. */
export function observedReason(peer: Peer | undefined, { phase, times, servedMs }: HandoffFacts): FdbError {
  if (peer === undefined) return new FdbError('ERR_FDB_SUCCESSOR_DIED', 'the successor has died')
  if (!peer.link.open) {
    if (phase !== 'probation') return lostChannel(peer)
    const text = `process ${peer.pid} died or closed its channel in probation, after it had served for ${Math.round(servedMs)} ms`
    return new FdbError('ERR_FDB_SUCCESSOR_LOST', text)
  }
  const silent = Math.round(performance.now() - peer.heartbeatAt)
  const sick = Math.round(performance.now() - peer.healthyAt)
  if (phase === 'probation') {
    const how = peer.healthy ? 'was silent' : 'was not healthy'
    const why = peer.healthProblem === '' ? '' : `: ${peer.healthProblem}`
    return new FdbError(
      'ERR_FDB_UNHEALTHY',
      `process ${peer.pid} ${how} for ${sick} ms (limit ${times.silence} ms)${why}`,
    )
  }
  const waited = waitsForSuccessor(phase)
  if (waited && peer.sendsHeartbeats && silent > waitingSilence(times)) {
    return new FdbError(
      'ERR_FDB_DEADLINE',
      `process ${peer.pid} was silent for ${silent} ms in phase ${phase} while changes waited for it (limit ${waitingSilence(times)} ms): it is stopped or stuck; continue or end it, and upgrade again`,
    )
  }
  const limit = phaseLimit(phase, times)
  if (phase === 'offering') {
    return new FdbError(
      'ERR_FDB_DEADLINE',
      `process ${peer.pid} was not ready within ${limit ?? silent} ms (phase offering): raise upgrade.ready if it is only slow`,
    )
  }
  return new FdbError(
    'ERR_FDB_DEADLINE',
    `process ${peer.pid} did not get past phase ${phase} within ${limit ?? silent} ms: it is stuck, stopped or slow; raise the limit if it is only slow`,
  )
}

/** Compares the incumbent's position in the state log with the successor's. Returns null if they are equal. */
export function stateMismatch(ours: StatePosition, theirs: StatePosition | null): FdbError | null {
  if (ours.digest === theirs?.digest && ours.sequence === theirs.sequence) return null
  const read = theirs === null ? 'position unknown' : `sequence ${theirs.sequence}, digest ${theirs.digest}`
  return new FdbError(
    'ERR_FDB_DIGEST',
    `the successor read another state (${read}) than the incumbent has (sequence ${ours.sequence}, digest ${ours.digest}), so the handoff is refused: try again; if it recurs, report it`,
  )
}

/** Explains why no process can join now. `untold`: the owner has no channel, so it would not get the joiner's segments. */
export function joinRefusal(because: Refusal, pidOf: (id: Id) => number | undefined): string {
  switch (because.is) {
    case 'busy': {
      const pid = pidOf(because.awaited)
      return `a handoff is under way (phase ${because.phase}${pid === undefined ? '' : `, process ${pid}`}): try again when it is over`
    }
    case 'bound': {
      const pids = because.ids.map(pidOf).filter(pid => pid !== undefined)
      return pids.length === 0
        ? 'a process of an earlier handoff has just ended: try again'
        : `process ${pids.join(', ')} was given the listeners in an earlier handoff and has not ended yet: try again when it has, or end it (fd-broker upgrade --kill-stuck)`
    }
    case 'untold': {
      const pid = pidOf(because.owner)
      return pid === undefined
        ? 'the process that served has just ended: try again'
        : `process ${pid}, which serves, has lost its channel to this process and is still alive: try again when it has reconnected, or end it`
    }
  }
}
