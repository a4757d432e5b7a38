import { describe, expect, it } from 'vitest'
import { OperatorClient } from '../../src/operator/client.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { type ServiceStatus, servedBy, serviceWhere, startDaemon } from '../processes/daemon.js'
import { openFds } from '../processes/descriptors.js'
import { freePort, Scene } from '../processes/scene.js'
import { pause } from '../processes/until.js'

const ROUNDS = perLane(4, 12)
/** After so many it must have come to its size. */
const A_FEW = 3

interface Size {
  readonly segments: number
  readonly logBytes: number
  readonly fds: string[]
  readonly memberFds: string[]
}

async function open(): Promise<{ scene: Scene; daemon: App }> {
  const upgrade = { probation: 0, heartbeat: 20 }
  const scene = Scene.open({
    hosting: 'daemon',
    routes: 500,
    upgrade,
    hold: ['memfd'],
    listeners: [{ name: 'web', spec: `tcp://127.0.0.1:${await freePort()}` }],
  })
  return { scene, daemon: await startDaemon(scene, { upgrade }) }
}

/** The sizes once the member has merged the sealed segments, and no other member is there. */
async function sizeOf(scene: Scene, daemon: App, member: App): Promise<Size> {
  const settled = ({ pid, phase, segments, draining, blockedBy, state }: ServiceStatus) =>
    pid === member.pid &&
    phase === 'idle' &&
    segments <= 3 &&
    draining.length === 0 &&
    blockedBy.length === 0 &&
    state.segments <= 2
  const { segments, logBytes } = await serviceWhere(scene, 'the state is compacted', settled)
  // A daemon that answers twice has read the ends of the connections that were closed before.
  using operator = await OperatorClient.connect(scene.control)
  for (let i = 0; i < 2; i++) await operator.status()
  return { segments, logBytes, fds: await fewest(daemon.pid), memberFds: await fewest(member.pid) }
}

/** A request to a member takes a descriptor for a moment. */
async function fewest(pid: number): Promise<string[]> {
  let fds = openFds(pid)
  for (let look = 0; look < 20; look++) {
    await pause(5)
    const now = openFds(pid)
    if (now.length < fds.length) fds = now
  }
  return fds
}

/** The same keys each time, so that the state does not grow. */
async function write(member: App): Promise<void> {
  for (let i = 0; i < 20; i++)
    await member.order('put', { key: `written-${i}`, value: { item: `by ${member.pid % 10}` } })
}

describe('a daemon’s holdings', () => {
  it(`stay the same after ${ROUNDS} upgrades as after ${A_FEW}`, async () => {
    const { scene, daemon } = await open()
    let member = await scene.serve()
    const sizes: Size[] = []
    for (let round = 1; round <= ROUNDS; round++) {
      await write(member)
      const old = member
      member = await scene.serve()
      await old.end()
      if (round >= A_FEW) sizes.push(await sizeOf(scene, daemon, member))
    }
    expectSame(sizes)
    expect((await servedBy(scene, member)).state.entries).toBe(520)
  })

  it.runIf(NIGHTLY)(`stay the same after ${ROUNDS} kills as after ${A_FEW}`, async () => {
    const { scene, daemon } = await open()
    let member = await scene.serve()
    const sizes: Size[] = []
    for (let round = 1; round <= ROUNDS; round++) {
      await write(member)
      await member.kill()
      member = await scene.serve()
      if (round >= A_FEW) sizes.push(await sizeOf(scene, daemon, member))
    }
    expectSame(sizes)
    expect((await servedBy(scene, member)).state.entries).toBe(520)
  })
})

function expectSame(sizes: readonly Size[]): void {
  const [early, last] = [sizes[0]!, sizes.at(-1)!]
  expect(names(last.fds)).toEqual(names(early.fds))
  expect(names(last.memberFds)).toEqual(names(early.memberFds))
  expect(last.segments).toBe(early.segments)
  // Epochs and sequence numbers take a byte more when they grow.
  expect(last.logBytes).toBeLessThan(early.logBytes * 1.02 + 64)
}

/**
 * Without what differs from one generation to the next, and without inotify: a process that gets no instance, of this user's 128, watches its control path
 * by polling.
 */
function names(fds: readonly string[]): string[] {
  return fds
    .filter(fd => fd !== 'anon_inode:inotify')
    .map(fd => fd.replace(/^memfd:fdb-state-\d+/, 'memfd:fdb-state').replace(/\/app\d+\./, '/app.'))
    .sort()
}
