import { spawn } from 'node:child_process'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { UserQuotas } from '../../../src/daemon/user-quotas.js'
import { type HolderState, initialHolder } from '../../../src/handoff/holder-machine.js'
import { Holder } from '../../../src/holder/holder.js'
import { Registry } from '../../../src/holder/registry.js'
import { SegmentSet } from '../../../src/holder/segment-set.js'
import { HANDOFF_TIMES, phaseLimit } from '../../../src/holder/times.js'
import { OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import { openPidfd } from '../../../src/os/liveness.js'
import { identify } from '../../../src/os/process-identity.js'
import { Channel } from '../../../src/wire/channel.js'
import { Link } from '../../../src/wire/link.js'
import { linked } from '../../holder-support/processes.js'
import { hasEnded } from '../../processes/launch.js'
import { until } from '../../processes/until.js'

/** A holder that tells what comes to its machine, which reckons with the first peer still. */
function watching(pid: number, facts: Partial<HolderState> = { joiner: 1 }, logger = SILENT) {
  const story: string[] = []
  const machine: HolderState = { ...initialHolder('member', 0, 1), ...facts }
  const segmentSet = new SegmentSet()
  const holder = new Holder({
    host: {
      state: () => machine,
      dispatch: event => story.push('message' in event ? event.message.kind : event.type),
      extraItems: () => [],
      bundle() {},
      changed() {},
      position: () => null,
      forgotten: peer => story.push(`forgotten ${peer.pid === pid}`),
    },
    registry: new Registry(),
    segmentSet,
    times: HANDOFF_TIMES,
    logger,
    renewBytes: () => 1_000_000,
  })
  onTestFinished(() => holder.close())
  return { holder, story, machine }
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

describe.each(['the same user', 'another user, which has used up its share of time'])('of %s', whose => {
  it('the last messages of a peer count, also when its death is heard first', async ({ skip }) => {
    const child = spawn('sleep', ['60'], { stdio: 'ignore' })
    onTestFinished(() => void child.kill('SIGKILL'))
    const pid = child.pid!
    const pidfd = openPidfd(pid)
    if (!(pidfd instanceof OwnedFd)) return skip('no pidfds here')
    const { holder, story } = watching(pid)
    const [here, there] = native.socketPair()
    const far = new Link(new Channel(OwnedFd.own(there, 'far')))
    const foreignUser =
      whose === 'the same user'
        ? undefined
        : new UserQuotas(1_024).foreignUserOf((process.geteuid?.() ?? 0) + 1)!
    foreignUser?.spend(60_000)
    const link = new Link(new Channel(OwnedFd.own(here, 'peer'), { foreignUser }))
    holder.admit({ link, pid, generation: 2, identity: identify(pid), proven: true, pidfd })
    // All in one turn: the kernel tells of what was first, first.
    process.kill(pid, 'SIGKILL')
    for (const give = performance.now() + 20_000; !hasEnded(pid); )
      expect(performance.now()).toBeLessThan(give)
    far.post({ abort: { code: 'ERR_FDB_CHECK', message: 'the warehouse is closed' } })
    await until('it is forgotten', () => story.includes('forgotten true'))
    expect(story).toEqual(['join', 'abort', 'dead', 'forgotten true'])
    far.close()
  })
})

it('the segments are sealed aside once a process of another user has been a peer', async () => {
  const { holder } = watching(process.pid)
  onTestFinished(() => holder.segmentSet.close())
  holder.segmentSet.make([1, 2])
  const seal = (from: number) => holder.perform({ type: 'seal', from, below: from + 1 })
  expect([seal(1), holder.segmentSet.isSealed(1)]).toEqual([undefined, true])
  const [here, there] = native.socketPair()
  const far = new Channel(OwnedFd.own(there, 'far'))
  const foreignUser = new UserQuotas(1_024).foreignUserOf((process.geteuid?.() ?? 0) + 1)
  const link = new Link(new Channel(OwnedFd.own(here, 'peer'), { foreignUser }))
  const { pid } = process
  holder.admit({ link, pid, generation: 2, identity: identify(pid), proven: false, pidfd: null })
  await far.close()
  await until('it has left', () => !link.open)
  const sealing = seal(2)
  expect(sealing).toBeInstanceOf(Promise)
  await sealing
  expect(holder.segmentSet.isSealed(2)).toBe(true)
})

/** A channel of this process, as if it were one of another. */
function peerOf(pid: number, pidfd: OwnedFd | null) {
  const [here, there] = native.socketPair()
  const far = new Link(new Channel(OwnedFd.own(there, 'far')))
  const link = new Link(new Channel(OwnedFd.own(here, 'peer')))
  onTestFinished(() => far.close())
  return { far, candidate: { link, pid, generation: 2, identity: identify(pid), proven: true, pidfd } }
}

it.each(['by a pidfd', 'without pidfds'])(
  'one that has ended is told of before who comes then, %s',
  async how => {
    const child = spawn('sleep', ['60'], { stdio: 'ignore' })
    onTestFinished(() => void child.kill('SIGKILL'))
    const pid = child.pid!
    const pidfd = how === 'by a pidfd' ? openPidfd(pid) : null
    const { holder, story } = watching(pid)
    const first = peerOf(pid, pidfd instanceof OwnedFd ? pidfd : null)
    holder.admit(first.candidate)
    first.far.close()
    await until('its channel has ended', () => story.includes('lost'))
    // All in one turn: this process hears of nothing else.
    process.kill(pid, 'SIGKILL')
    for (const give = performance.now() + 20_000; !hasEnded(pid); )
      expect(performance.now()).toBeLessThan(give)
    holder.admit(peerOf(process.pid, null).candidate)
    expect(story).toEqual(['join', 'lost', 'dead', 'forgotten true', 'join'])
  },
)

it('a member that connects again and again takes no descriptor each time', async () => {
  const { holder, story } = watching(process.pid, { owner: 1 })
  const again = () => {
    const { far, candidate } = peerOf(process.pid, openPidfd(process.pid) as OwnedFd)
    holder.readmit(candidate)
    return far
  }
  let far = again()
  const before = native.openCount()
  for (let i = 0; i < 3; i++) {
    const lost = story.length
    far.close()
    await until('its channel has ended', () => story.length > lost)
    far = again()
  }
  expect([holder.peers.length, native.openCount()]).toEqual([1, before])
})

it('a time limit that changes nothing is followed by the next one, as long as the phase lasts', async () => {
  vi.useFakeTimers()
  onTestFinished(() => void vi.useRealTimers())
  const { holder, story, machine } = watching(process.pid, { owner: 1, down: [1] })
  Object.assign(machine, { phase: 'returning' })
  holder.stepped()
  const limit = phaseLimit('returning', HANDOFF_TIMES)!
  for (let passed = 0; passed < 3; passed++) {
    expect(story).toEqual(Array.from({ length: passed }, () => 'deadline'))
    await vi.advanceTimersByTimeAsync(limit + 1)
  }
})

it('tells a caller of the process that serves, lives and has no channel', async () => {
  const { holder } = watching(process.pid, { owner: 1, down: [1] })
  holder.admit(peerOf(process.pid, null).candidate)
  const { far, candidate } = peerOf(process.ppid, null)
  const told: string[] = []
  far.start({ message: ({ reject }) => told.push(reject?.message ?? ''), broken: () => {}, end: () => {} })
  holder.admit(candidate)
  holder.perform({ type: 'refuse', id: 2, because: { is: 'untold', owner: 1 } })
  await until('it is told', () => told.length > 0)
  expect(told).toEqual([
    `process ${process.pid}, which serves, has lost its channel to this process and is still alive: try again when it has reconnected, or end it`,
  ])
})

it('a process that repeats that it cannot serve fills no log', async () => {
  const lines: unknown[] = []
  const { holder, story } = watching(process.pid, {}, { ...SILENT, warn: (...line) => lines.push(line) })
  const { far, candidate } = peerOf(process.pid, null)
  holder.admit(candidate)
  const say = (message: string) => far.post({ unfit: { epoch: 1, code: 'ERR_FDB_SCHEMA', message } })
  for (let i = 0; i < 50; i++) say('too new')
  say('another reason')
  await until('all are heard', () => story.filter(kind => kind === 'unfit').length === 51)
  expect(lines).toHaveLength(2)
})

it('a joiner is not compared with an earlier position of an owner that could not be told to freeze', async () => {
  const { holder } = watching(1, { owner: 1, joiner: 2 })
  const admitted = (link: Link) => {
    const { pid } = process
    holder.admit({ link, pid, generation: 1, identity: { pid }, proven: false, pidfd: null })
    return holder.peers.at(-1)!
  }
  const [owner, joiner] = [linked(), linked()]
  const { id, link } = admitted(owner.link)
  holder.peer(id)!.position = { epoch: 1, sequence: 1, digest: 'a' }
  admitted(joiner.link)
  link.close()
  holder.perform({ type: 'tell', to: id, message: { kind: 'freeze' } })
  holder.perform({ type: 'tell', to: 2, message: { kind: 'sealed' } })
  await until('the joiner has heard', () => joiner.heard.some(({ sealed }) => sealed))
  expect(joiner.heard.find(({ sealed }) => sealed)?.sealed?.position ?? null).toBe(null)
})

it('the wait for a process that was killed ends when the holder is closed, which does not hear of the death', async () => {
  const { holder } = watching(0, { bound: [1] })
  const waiting = holder.killStuck()
  holder.close()
  await expect(waiting).resolves.toBeUndefined()
})
