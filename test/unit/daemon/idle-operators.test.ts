import { afterEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { DescriptorStore } from '../../../src/daemon/service/descriptor-store.js'
import { Registry } from '../../../src/holder/registry.js'
import { memoryFile } from '../../../src/kernel/index.js'
import type { Operations } from '../../../src/operator/requests.js'
import { serveOperator } from '../../../src/operator/server.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { Link, type WireEnvelope } from '../../../src/wire/link.js'
import { channelPair } from '../../processes/channel-pair.js'
import { until } from '../../processes/until.js'

const { Op } = fdbroker.wire.DescriptorRequest

/** By the clock: a busy machine needs a part of it for an operator's first request. */
const IDLE_MS = 1_000

/** An operator that may ask nothing for so long. */
function operator(
  idleMs: number | null,
  status: () => Promise<object> = async () => ({}),
  held: Partial<NonNullable<Operations['descriptors']>> = {},
) {
  const [ours, theirs] = channelPair()
  const changed = new Set<() => void>()
  const none = () => expect.fail('it is not asked for that')
  const descriptors: NonNullable<Operations['descriptors']> = {
    claim: none,
    put: none,
    release: none,
    remove: none,
    list: () => [],
    hasClaim: () => false,
    operatorLeft: () => {},
    watch: told => {
      changed.add(told)
      return () => changed.delete(told)
    },
    ...held,
  }
  serveOperator(new Link(ours), { status, descriptors, upgrade: none, command: none }, { idleMs })
  const link = new Link(theirs)
  onTestFinished(() => link.close())
  const heard: WireEnvelope[] = []
  const seen = { ended: false }
  const end = () => {
    seen.ended = true
  }
  link.start({ message: envelope => heard.push(envelope), broken: end, end })
  const change = () => {
    for (const told of changed) told()
  }
  return { change, heard, link, seen }
}

afterEach(() => vi.useRealTimers())

describe('an operator that asks nothing', () => {
  it('has to leave when its time has passed since its last request, not since an earlier one', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { heard, link, seen } = operator(1_000)
    const turns = async (holds: () => boolean) => {
      for (let i = 0; i < 10_000 && !holds(); i++) await new Promise(resolve => setImmediate(resolve))
    }
    vi.advanceTimersByTime(900)
    await link.send({ statusRequest: {} })
    await turns(() => heard.length === 1)
    expect(heard).toHaveLength(1)
    vi.advanceTimersByTime(900)
    expect(vi.getTimerCount()).toBe(1)
    vi.advanceTimersByTime(100)
    await turns(() => seen.ended)
    expect(seen.ended).toBe(true)
    expect(vi.getTimerCount()).toBe(0)
  })

  it('does not have to leave if it has asked in time, which this process, as it was stopped, reads late', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    const { heard, link, seen } = operator(1_000)
    for (let turn = 0; turn < 10; turn++) await new Promise(resolve => setImmediate(resolve))
    void link.send({ statusRequest: {} })
    vi.advanceTimersByTime(1_000)
    for (let turn = 0; turn < 100 && heard.length === 0; turn++)
      await new Promise(resolve => setImmediate(resolve))
    expect([heard.length, seen.ended]).toEqual([1, false])
  })

  it('has to leave after its time, unless it watches, waits for an answer, or has no such limit', async () => {
    let answer = (_status: object) => {}
    const slow = new Promise<object>(resolve => {
      answer = resolve
    })
    const [idle, watching, waiting, own] = [
      operator(IDLE_MS),
      operator(IDLE_MS),
      operator(IDLE_MS, () => slow),
      operator(null),
    ] as const
    await watching.link.send({ descriptorRequest: { request: 1, op: Op.WATCH } })
    await waiting.link.send({ statusRequest: {} })
    await until('the idle one has ended', () => idle.seen.ended)
    // Later than all others could have been sent away.
    const later = operator(IDLE_MS)
    await until('a later one has ended too', () => later.seen.ended)
    expect([watching.seen.ended, waiting.seen.ended, own.seen.ended]).toEqual([false, false, false])
    watching.change()
    await until('it is told', () => watching.heard.length === 2)
    answer({})
    await until('it is answered', () => waiting.heard.length === 1)
    await until('and has asked nothing since', () => waiting.seen.ended)
  })

  /** A store with these descriptors of the daemon's user, and an operator of it. */
  function atStore(...names: string[]) {
    const registry = new Registry()
    const store = new DescriptorStore(registry)
    onTestFinished(() => {
      store[Symbol.dispose]()
      registry.close()
    })
    const by = { pid: process.pid, uid: 0 }
    for (const name of names)
      store.put({ name, fd: memoryFile(name, name), lifetime: null, ms: null, replace: false, by })
    const { heard, link, seen } = operator(IDLE_MS, undefined, {
      claim: order => store.claim(order),
      hasClaim: by => store.hasClaim(by),
      release: (name, by, claimant) => store.release(name, by, claimant),
    })
    const ask = async (request: number, op: number, name: string) => {
      await link.send({ descriptorRequest: { request, op, name } })
      await until('it is answered', () => heard.length === request)
      expect(heard.at(-1)!.descriptorReply).toMatchObject({ request, ok: true })
    }
    return { ask, seen, store }
  }

  it('has to leave after it has released its last exclusive claim', async () => {
    const { ask, seen } = atStore('a', 'b')
    await ask(1, Op.CLAIM, 'a')
    await ask(2, Op.CLAIM, 'b')
    await ask(3, Op.RELEASE, 'a')
    const later = operator(IDLE_MS)
    await until('a later one has ended', () => later.seen.ended)
    expect(seen.ended).toBe(false)
    await ask(4, Op.RELEASE, 'b')
    await until('it has ended', () => seen.ended)
  })

  it('has to leave after the descriptor that it has claimed was removed', async () => {
    const { ask, seen, store } = atStore('a')
    await ask(1, Op.CLAIM, 'a')
    store.remove('a')
    await until('it has ended', () => seen.ended)
  })
})
