import { readdirSync, readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { closeAll, OwnedFd } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'
import { fdbroker } from '../../src/proto/wire.js'
import type { WireBody } from '../../src/wire/link.js'
import fc from '../lanes/generated.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import type { App } from '../processes/app.js'
import { startDaemon } from '../processes/daemon.js'
import { hello, packed, RawPeer } from '../processes/raw-peer.js'
import { Scene } from '../processes/scene.js'
import { pause, until } from '../processes/until.js'
import { workOf } from '../processes/worked.js'

const TIMES = { probation: 10_000, heartbeat: 50, ready: 2_000 }
const SEED = 20_260
const RUNS = perLane(60, 150)
const INTENTS = ['JOIN', 'BACK', 'OPERATE', 'DRAINING'] as const
const { Role } = fdbroker.wire.Item

const number = fc.oneof(fc.nat(5), fc.constantFrom(2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1))
const words = fc.oneof(
  fc.constantFrom('', 'shop', 'web', 'routes', '{}', 'null', 'ready', 'serving'),
  fc.string(),
)
const position = fc.option(fc.record({ epoch: number, sequence: number, digest: words }), { nil: undefined })
const item = fc.record({
  role: fc.constantFrom(...Object.values(Role).filter(role => typeof role === 'number'), 77),
  name: words,
  spec: words,
  epoch: number,
  writable: fc.boolean(),
  identity: fc.record({
    type: fc.constantFrom('socket', 'file', 'x'),
    ino: words,
    cookie: words,
    family: words,
  }),
})

/** Messages of this protocol, with anything in them. */
const body: fc.Arbitrary<WireBody> = fc.oneof(
  fc.constantFrom(...INTENTS).map(intent => hello(intent)),
  fc.record({ fds: fc.record({ index: number, bundle: number, last: fc.boolean(), items: fc.array(item) }) }),
  fc.record({ fdsAck: fc.record({ index: number, bundle: number, verified: number }) }),
  fc.record({ ready: fc.record({ adopted: fc.array(words), position }) }),
  fc.record({ frozen: fc.record({ position }) }),
  fc.record({ prepared: fc.record({ position }) }),
  fc.record({ serving: fc.record({ epoch: number }) }),
  fc.record({ back: fc.record({ role: words, epoch: number, sealed: fc.boolean(), top: number }) }),
  fc.record({ heartbeat: fc.record({ healthy: fc.boolean(), report: fc.oneof(words, fc.json()) }) }),
  fc.record({ register: fc.record({ request: number, drop: fc.boolean() }) }),
  fc.record({ abort: fc.record({ code: words, message: words }) }),
  fc.record({ command: fc.record({ name: words, request: number, service: words }) }),
  fc.record({ commandReply: fc.record({ request: number, ok: fc.boolean(), code: words }) }),
  fc.record({ result: fc.record({ ok: fc.boolean(), code: words }) }),
  fc.record({ offer: fc.record({ epoch: number, wayBack: number, source: number, items: number }) }),
  fc.record({ commit: fc.record({ epoch: number }) }),
  fc.record({ reinstate: fc.record({ epoch: number }) }),
  fc.constantFrom<WireBody>(
    { gone: {} },
    { endProbation: {} },
    { statusRequest: {} },
    { status: { json: '[' } },
    { freeze: {} },
    { released: {} },
    { fenced: {} },
    { welcome: {} },
    { reject: {} },
  ),
)

/** Few bytes that would be much work. */
const large = fc.constantFrom(5, 7, 22, 32, 35).map(field => {
  const fields = Buffer.alloc(6 * 1024 * 1024, Buffer.from([0x1a, 0]))
  const length = [0, 7, 14, 21].map((shift, i) => ((fields.length >> shift) & 127) | (i < 3 ? 128 : 0))
  return Buffer.concat([
    Buffer.from(field < 16 ? [field * 8 + 2] : [((field * 8 + 2) & 127) | 128, field >> 4]),
    Buffer.from(length),
    fields,
  ])
})

const payload = fc.oneof(
  { weight: 30, arbitrary: body.map(packed) },
  { weight: 4, arbitrary: fc.uint8Array({ maxLength: 300 }) },
  { weight: 2, arbitrary: large },
)
const visit = fc.record({
  first: fc.option(fc.constantFrom(...INTENTS), { freq: 6 }),
  messages: fc.array(fc.record({ payload, fds: fc.nat(3) }), { maxLength: 12 }),
  waits: fc.boolean(),
})

function someFds(count: number): OwnedFd[] {
  return Array.from({ length: count }, (_, i) =>
    OwnedFd.own(i % 2 === 0 ? native.memfd('fuzz') : native.socketPair()[0], 'fuzz'),
  )
}

function openFds(app: App): number {
  return readdirSync(`/proc/${app.pid}/fd`).length
}

function rssMiB(app: App): number {
  return Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${app.pid}/status`, 'latin1'))?.[1] ?? 0) / 1024
}

/** The most that the server worked before it answered a message that is answered at once. */
async function mostWork(scene: Scene, app: App, ended: () => boolean): Promise<number> {
  let worst = 0
  while (!ended()) {
    const worked = workOf(app.pid)
    const operator = await RawPeer.connect(scene.control)
    operator.say(hello('OPERATE'), { command: { name: 'x', request: 1 } })
    await until('an operator has its answer', () => operator.heard.length > 0, 5_000)
    operator.leave()
    worst = Math.max(worst, worked())
  }
  return worst
}

async function besiege(scene: Scene, app: App, seed: number): Promise<void> {
  const fds = openFds(app)
  const rss = rssMiB(app)
  let over = false
  const waits = mostWork(scene, app, () => over)
  try {
    await fc.assert(
      fc.asyncProperty(visit, async ({ first, messages, waits }) => {
        const peer = await RawPeer.connect(scene.control)
        if (first !== null) peer.say(hello(first))
        if (waits)
          await Promise.race([
            peer.ended,
            until('it is answered', () => peer.heard.length > 0, 100).catch(() => {}),
          ])
        for (const message of messages) {
          const fds = someFds(message.fds)
          await peer.send(message.payload, fds)
          closeAll(fds)
        }
        if (waits) await Promise.race([peer.ended, pause(5)])
        peer.leave()
      }),
      { seed, numRuns: RUNS, endOnFailure: true, interruptAfterTimeLimit: 6_000 },
    )
  } finally {
    over = true
  }
  expect(app.ended, app.output.slice(-2_000)).toBe(false)
  expect(await waits).toBeLessThan(500)
  await until(
    'no descriptor is left of it',
    () => openFds(app) <= fds + 2,
    8_000,
    () => `${openFds(app)} open, ${fds} before`,
  )
  expect(rssMiB(app) - rss).toBeLessThan(120)
}

describe('random messages with random descriptors on the control socket', () => {
  it('leave a server serving, with no descriptor more and bounded memory', async () => {
    const scene = Scene.open({ upgrade: TIMES })
    const app = await scene.serve()
    await scene.status()
    await besiege(scene, app, SEED)
    expect(await scene.status()).toMatchObject({ pid: app.pid, role: 'serving' })
  })

  it.runIf(NIGHTLY)(
    'leave a daemon and its member serving, with no descriptor more and bounded memory',
    async () => {
      const scene = Scene.open({ upgrade: TIMES, hosting: 'daemon' })
      const daemon = await startDaemon(scene, { upgrade: TIMES })
      const member = await scene.serve()
      await scene.status()
      await besiege(scene, daemon, SEED + 1)
      expect(member.ended).toBe(false)
      expect(await member.order('phase')).toBe('serving')
    },
  )
})
