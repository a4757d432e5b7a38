import { spawn } from 'node:child_process'
import { expect, it, onTestFinished } from 'vitest'
import { Channel } from '../../src/channel/channel.js'
import { Holder } from '../../src/holder/holder.js'
import { Registry } from '../../src/holder/registry.js'
import { SegmentShelf } from '../../src/holder/segment-shelf.js'
import { HANDOFF_TIMES } from '../../src/holder/times.js'
import { OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { SILENT } from '../../src/logger.js'
import { openPidfd } from '../../src/process/liveness.js'
import { identify } from '../../src/process/process-identity.js'
import { initialHolder } from '../../src/protocol/holder-machine.js'
import { Link } from '../../src/protocol/link.js'
import { hasEnded } from '../processes/launch.js'
import { until } from '../processes/until.js'

/** A holder that tells what comes to its machine. */
function watching(pid: number) {
  const story: string[] = []
  const machine = initialHolder('member', 0, 1)
  const shelf = new SegmentShelf()
  const holder = new Holder({
    surroundings: {
      // The machine reckons with it still.
      state: () => ({ ...machine, joiner: 1 }),
      dispatch: event => story.push('message' in event ? event.message.kind : event.type),
      extraItems: () => [],
      position: () => null,
      forgotten: peer => story.push(`forgotten ${peer.pid === pid}`),
    },
    registry: new Registry(),
    shelf,
    times: HANDOFF_TIMES,
    logger: SILENT,
    renewBytes: 1_000_000,
    firstId: 1,
  })
  onTestFinished(() => holder.close())
  return { holder, story }
}

it('a peer that has died is forgotten, with its channel, also when others keep that open', async ({
  skip,
}) => {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  const pid = child.pid!
  const pidfd = openPidfd(pid)
  if (!(pidfd instanceof OwnedFd)) return skip('no pidfds here')
  const before = native.openCount() - 1
  const { holder, story } = watching(pid)
  const [here, there] = native.socketPair()
  const far = new Channel(OwnedFd.own(there, 'kept open'))
  const link = new Link(new Channel(OwnedFd.own(here, 'peer')))
  holder.admit({ link, pid, generation: 2, identity: identify(pid), proven: true, pidfd })
  expect([story, holder.peers.length]).toEqual([['join'], 1])
  child.kill('SIGKILL')
  await until('it is forgotten', () => story.length >= 3)
  expect([story, holder.peers]).toEqual([['join', 'dead', 'forgotten true'], []])
  await far.close()
  expect(native.openCount()).toBe(before)
})

it('what a peer has said counts, also when its death is heard first', async ({ skip }) => {
  const child = spawn('sleep', ['60'], { stdio: 'ignore' })
  onTestFinished(() => void child.kill('SIGKILL'))
  const pid = child.pid!
  const pidfd = openPidfd(pid)
  if (!(pidfd instanceof OwnedFd)) return skip('no pidfds here')
  const { holder, story } = watching(pid)
  const [here, there] = native.socketPair()
  const far = new Link(new Channel(OwnedFd.own(there, 'far')))
  const link = new Link(new Channel(OwnedFd.own(here, 'peer')))
  holder.admit({ link, pid, generation: 2, identity: identify(pid), proven: true, pidfd })
  // All in one turn: the kernel tells of what was first, first.
  process.kill(pid, 'SIGKILL')
  for (const give = performance.now() + 20_000; !hasEnded(pid); ) expect(performance.now()).toBeLessThan(give)
  far.tell({ abort: { code: 'ERR_FDB_CHECK', message: 'the warehouse is closed' } })
  await until('it is forgotten', () => story.includes('forgotten true'))
  expect(story).toEqual(['join', 'abort', 'dead', 'forgotten true'])
  far.close()
})
