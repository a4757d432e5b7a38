import { onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { ForwardedUpgrades } from '../../src/daemon/service/forwarded-upgrades.js'
import type { Caller } from '../../src/holder/admission.js'
import type { Peer } from '../../src/holder/peer.js'
import { type Candidate, Peers } from '../../src/holder/peers.js'
import { HANDOFF_TIMES } from '../../src/holder/times.js'
import { closeAll } from '../../src/kernel/index.js'
import { Link, VERSIONS, type WireEnvelope } from '../../src/wire/link.js'
import { channelPair } from '../processes/channel-pair.js'

/** Two ends of a channel, until the test ends. `heard` has the messages to the far end. */
export function linked(): { link: Link; far: Link; heard: WireEnvelope[] } {
  const [ours, theirs] = channelPair()
  const [link, far] = [new Link(ours), new Link(theirs)]
  onTestFinished(() => {
    link.close()
    far.close()
  })
  const heard: WireEnvelope[] = []
  far.start({
    message: (envelope, fds) => {
      closeAll(fds)
      heard.push(envelope)
    },
    broken: () => {},
    end: () => {},
  })
  return { link, far, heard }
}

const UNTOLD = { message() {}, bundle() {}, lost() {}, replaced() {}, died() {}, forgotten() {} }

/** A process that a holder talks to; by default one that cannot be seen from here. */
export function peerWith({ id = 1, ...facts }: Partial<Candidate> & { readonly id?: number } = {}): Peer {
  const peers = new Peers({ handler: UNTOLD, logger: SILENT })
  onTestFinished(() => peers.close())
  const { pid = process.pid, link = linked().link } = facts
  const peer = peers.add({
    generation: 1,
    proven: false,
    pidfd: null,
    identity: { pid },
    ...facts,
    pid,
    link,
  })!
  return Object.assign(peer, { id })
}

/** A process of this user that has said Hello. */
export function callerWith(facts: Partial<Caller>): Caller {
  const { pid = process.pid, link = linked().link } = facts
  const who = { uid: process.geteuid!(), gid: 0, pidfd: null, proven: false, identity: { pid } }
  return { hello: {}, intent: 'join', version: VERSIONS.max, ...who, ...facts, pid, link }
}

/** The upgrades that a daemon forwards, with the usual limits. */
export function forwardedUpgrades(): ForwardedUpgrades {
  return new ForwardedUpgrades(HANDOFF_TIMES)
}
