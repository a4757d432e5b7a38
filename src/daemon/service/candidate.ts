import { type Caller, isForeign } from '../../holder/admission.js'
import type { Candidate } from '../../holder/peers.js'
import { type HandoffTimes, readTimes } from '../../holder/times.js'

/** A caller as a candidate, with what it says of itself in its Hello. */
export function candidate(caller: Caller, generation: number): Candidate {
  const { hello, link, pid, pidfd, proven, identity } = caller
  const { capabilities } = hello
  const stateFile = isForeign(caller) ? '' : (hello.stateFile ?? '')
  const told = { times: readTimes(hello.times), capabilities: capabilities ?? [], stateFile }
  return { link, pid, pidfd, proven, identity, generation, ...told }
}

/** What its Welcome says. */
export function factsFor(
  { version }: Caller,
  about: { incarnation: string; generation: number; serviceStartedAt: number; times: HandoffTimes },
) {
  const { times, ...facts } = about
  return { version, pid: process.pid, daemon: true, heartbeatMs: times.heartbeat, ...facts }
}
