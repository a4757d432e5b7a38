import { onTestFinished } from 'vitest'
import { SILENT } from '../../src/base/logger.js'
import { LIMITS } from '../../src/daemon/policy/policy.js'
import { DescriptorTable } from '../../src/daemon/service/descriptor-table.js'
import { Pause } from '../../src/daemon/service/pause.js'
import { Registrations } from '../../src/daemon/service/registrations.js'
import { type HolderState, initialHolder } from '../../src/handoff/holder-machine.js'
import type { Peer } from '../../src/holder/peer.js'
import { SegmentSet } from '../../src/holder/segment-set.js'
import { memoryFile } from '../../src/kernel/index.js'

export const [OWNER, JOINER, OTHER] = [1, 2, 3]

/** A daemon's service in a phase of a handoff, to which members register descriptors, and what it answers them. */
export function registering(first: Partial<HolderState>) {
  const descriptorTable = new DescriptorTable(SILENT)
  const segmentSet = new SegmentSet()
  onTestFinished(() => {
    descriptorTable.close()
    segmentSet.close()
  })
  const answers: string[] = []
  let machine: HolderState = { ...initialHolder('member', OWNER, 1), ...first }
  const receiving = () => ({
    machine,
    descriptorTable,
    segmentSet,
    events: { adopt: () => {} },
    logger: SILENT,
    limits: { service: 'shop', limits: LIMITS },
  })
  const servesForGood = ({ id }: Peer) => id === machine.owner && machine.phase !== 'probation'
  const pause = new Pause()
  const registrations = new Registrations({ pause, receiving, servesForGood })
  const peers = [OWNER, JOINER, OTHER].map(id => {
    const post = ({ registered }: { registered: { request: number; code: string } }) =>
      answers.push(`${id}.${registered.request} ${registered.code}`.trim())
    return {
      id,
      pid: id,
      adopted: new Set(),
      refused: new Set(),
      forgotten: false,
      link: { post, channel: {} },
    } as unknown as Peer
  })
  const peer = (id: number) => peers[id - 1]!
  return {
    answers,
    pause,
    names: () => descriptorTable.held.names,
    register: (id: number, request: number, name = 'kept') => {
      const fd = memoryFile(name, 'a memory file')
      descriptorTable.arrive(peer(id), [{ role: 'named', name, fd }])
      registrations.take(peer(id), request)
    },
    ask: (id: number, request: number) => registrations.take(peer(id), request),
    forget: (id: number) => Object.assign(peer(id), { forgotten: true }),
    become: (next: Partial<HolderState>) => {
      machine = { ...machine, ...next }
      registrations.look()
    },
  }
}
