import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:http'
import { tmpdir } from 'node:os'
import { join as joinPath } from 'node:path'
import { afterEach, describe, expect, it, onTestFinished } from 'vitest'
import { serveDaemon } from '../../src/index.js'
import { join } from '../../src/member/joining/join.js'
import type { Member } from '../../src/member/member.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { openFds } from '../processes/descriptors.js'
import { collectGarbage } from '../processes/garbage.js'
import { liveBytes } from '../processes/live-objects.js'
import { until } from '../processes/until.js'

const ROUNDS = perLane(12, 100)
/** More than after the third round: descriptors of a compaction that is under way. One that each round leaves makes nine in the gate. */
const DESCRIPTORS = 4
/** Rounds until the histories of upgrades and events are full. */
const FULL = 30
/** For each later round. Without a leak it is 10 to 90 bytes: V8 makes maps and strings larger. */
const BYTES = 512

function controlPath(): string {
  const folder = mkdtempSync(joinPath(tmpdir(), 'fdb-rounds-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  return joinPath(folder, 'control.sock')
}

/** Members that a test has not closed itself: a test's own references to others would be a remainder. */
const open = new Set<Member>()
/** Closed members: the garbage collector may take each. */
let closed: WeakRef<Member>[] = []
afterEach(async () => {
  await Promise.all([...open].map(close))
  closed = []
})

async function close(member: Member): Promise<void> {
  await member.close({ timeout: 0 })
  open.delete(member)
  closed.push(new WeakRef(member))
}

async function serve(control: string, hosting: 'embedded' | 'daemon', probation = 0): Promise<Member> {
  const upgrade = { probation, heartbeat: 50 }
  const member = await join({ service: 'shop', control, hosting, drain: { timeout: 0 }, upgrade })
  open.add(member)
  const web = await member.listen('web', 'tcp://127.0.0.1:0')
  web.serve(createServer())
  await member.ready()
  return member
}

/** The holdings of this process, with the members of earlier rounds that it still refers to. Every party of a round is in it, so a remainder is nowhere else. */
function held() {
  collectGarbage()
  return {
    descriptors: openFds(process.pid),
    children: readFileSync(`/proc/self/task/${process.pid}/children`, 'utf8').trim(),
    members: closed.filter(member => member.deref() !== undefined).length,
  }
}

/** Runs the rounds. Then no more is held than after the third, and at night no more memory than after {@link FULL} rounds. */
async function leavesNothing(round: () => Promise<void>): Promise<void> {
  let count = 0
  const play = async (to: number) => {
    for (; count < to; count++) await round()
  }
  await play(3)
  const third = held()
  const rest = () => {
    const { descriptors, children, members } = held()
    return { more: descriptors.length - third.descriptors.length, children, members, descriptors }
  }
  const settled = () =>
    until(
      `round ${count} leaves what the third left`,
      () => {
        const { more, children, members } = rest()
        return more <= DESCRIPTORS && children === third.children && members === 0
      },
      15_000,
      rest,
    )
  if (NIGHTLY) {
    await play(FULL)
    await settled()
    const full = await liveBytes()
    await play(ROUNDS)
    await settled()
    const grown = (await liveBytes()) - full
    expect(grown / (ROUNDS - FULL)).toBeLessThan(BYTES)
  } else {
    await play(ROUNDS)
    await settled()
  }
}

describe('descriptors, processes and memory are as after the third', () => {
  it('of many upgrades of an embedded service', { timeout: 180_000 }, async () => {
    const control = controlPath()
    let member = await serve(control, 'embedded')
    let upgrades = 0
    await leavesNothing(async () => {
      const next = await serve(control, 'embedded')
      await close(member)
      member = next
      upgrades++
    })
    expect(upgrades).toBe(ROUNDS)
    expect(member.phase).toBe('serving')
  })

  it('of many versions that leave in probation, and have closed a listener', {
    timeout: 180_000,
  }, async () => {
    const control = controlPath()
    const member = await serve(control, 'embedded', 60_000)
    let left = 0
    await leavesNothing(async () => {
      const next = await serve(control, 'embedded')
      const aside = await next.listen('aside', `unix:@fdb-rounds-${process.pid}`)
      aside.serve(createServer())
      next.unlisten('aside')
      await close(next)
      await until('the previous version serves again', () => member.phase === 'serving')
      left++
    })
    expect(left).toBe(ROUNDS)
  })

  it.runIf(NIGHTLY)(
    'of many upgrades of a service that another one follows',
    { timeout: 180_000 },
    async () => {
      const control = controlPath()
      const daemon = await serveDaemon({ control })
      onTestFinished(() => daemon.close())
      let member = await serve(control, 'daemon')
      const follower = await join({ service: 'reports', follow: 'shop', control, hosting: 'daemon' })
      open.add(follower)
      await follower.ready()
      await leavesNothing(async () => {
        const next = await serve(control, 'daemon')
        await close(member)
        member = next
      })
      await member.section('rounds').put('last', Buffer.from('whole'))
      const read = follower.section('rounds')
      await until('the follower reads the change', () => read.get('last')?.toString() === 'whole')
    },
  )

  it('of many connections of a member to one daemon', { timeout: 180_000 }, async () => {
    const control = controlPath()
    const daemon = await serveDaemon({ control })
    onTestFinished(() => daemon.close())
    let connections = 0
    await leavesNothing(async () => {
      const member = await serve(control, 'daemon')
      await close(member)
      connections++
    })
    expect(connections).toBe(ROUNDS)
  })
})
