import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, it, onTestFinished } from 'vitest'
import { DescriptorStore } from '../../src/daemon/service/descriptor-store.js'
import { parseEntryKey } from '../../src/daemon/service/entry-key.js'
import { namedEntry } from '../../src/holder/entry.js'
import { Registry } from '../../src/holder/registry.js'
import { memoryFile, OwnedFd } from '../../src/kernel/index.js'
import { openPidfd } from '../../src/os/liveness.js'
import fc from '../lanes/generated.js'
import { perLane } from '../lanes/lane.js'
import { until } from '../processes/until.js'

const PROCESSES = 3
const NAMES = ['spool', 'fd:2/x'] as const
const BY = { pid: 7, uid: 0 }

type Name = (typeof NAMES)[number]
type Step =
  | { readonly what: 'claim' | 'release'; readonly of: number; readonly name: Name; readonly shared: boolean }
  | { readonly what: 'kill'; readonly of: number }
  /** `taken`: the next daemon takes over; `failed`: it has, and failed, so that this one goes on. */
  | { readonly what: 'hand over'; readonly how: 'taken' | 'failed' }

const ORDER = fc.record({
  what: fc.constantFrom('claim' as const, 'claim' as const, 'release' as const),
  of: fc.nat(PROCESSES - 1),
  name: fc.constantFrom(...NAMES),
  shared: fc.constantFrom(true, true, false),
})
const STEP: fc.Arbitrary<Step> = fc.oneof(
  { arbitrary: ORDER, weight: 6 },
  {
    arbitrary: fc.record({
      what: fc.constant('hand over' as const),
      how: fc.constantFrom('taken' as const, 'failed' as const),
    }),
    weight: 2,
  },
  { arbitrary: fc.record({ what: fc.constant('kill' as const), of: fc.nat(PROCESSES - 1) }), weight: 1 },
)

/** A daemon's store, which the next daemon gets as messages bring it: the entries that are wanted, by other descriptors. */
class Daemons {
  #registry = new Registry()
  store = new DescriptorStore(this.#registry)

  handOver(how: 'taken' | 'failed'): void {
    this.store[Symbol.dispose]()
    if (how === 'taken') {
      const next = new Registry()
      for (const { fd, name, note } of this.#registry.named) {
        if (!this.#registry.wanted.has(name)) continue
        using other = OwnedFd.duplicate(fd.raw, name)
        next.put(namedEntry(name, other.share(), note))
      }
      this.#registry.close()
      this.#registry = next
      this.store = new DescriptorStore(next)
    }
    this.store.takeOver()
  }

  /** The claims in the registry, which the next daemon gets. */
  get claims(): number {
    return this.#registry.names.filter(name => parseEntryKey(name)?.of === 'claim').length
  }

  close(): void {
    this.store[Symbol.dispose]()
    this.#registry.close()
  }
}

async function sleepers(): Promise<ChildProcess[]> {
  const all = Array.from({ length: PROCESSES }, () => spawn('sleep', ['600'], { stdio: 'ignore' }))
  onTestFinished(() => {
    for (const each of all) each.kill('SIGKILL')
  })
  await Promise.all(all.map(each => once(each, 'spawn')))
  return all
}

it('a claim lasts until its process ends or releases it, whatever daemons take over meanwhile', async () => {
  const property = fc.asyncProperty(fc.array(STEP, { minLength: 4, maxLength: 16 }), async steps => {
    const processes = await sleepers()
    const pidOf = (of: number) => processes[of]!.pid!
    const daemons = new Daemons()
    for (const name of NAMES)
      daemons.store.put({
        name,
        fd: memoryFile(name, 'a memory file'),
        lifetime: null,
        ms: null,
        replace: false,
        by: BY,
      })
    /** By name: the processes with a claim, and whether they share it. */
    const claims = new Map(NAMES.map(name => [name, new Map<number, boolean>()]))
    const dead = new Set<number>()
    const seen = () =>
      Object.fromEntries(
        daemons.store.list().map(({ name, users }) => [name, users.map(({ pid }) => pid).sort()]),
      )
    for (const step of steps) {
      if (step.what === 'kill') {
        const exit = once(processes[step.of]!, 'exit')
        if (!dead.has(step.of)) {
          processes[step.of]!.kill('SIGKILL')
          await exit
        }
        dead.add(step.of)
        for (const held of claims.values()) held.delete(step.of)
      } else if (step.what === 'hand over') daemons.handOver(step.how)
      else if (!dead.has(step.of)) {
        const { of, name, shared } = step
        const held = claims.get(name)!
        const others = [...held].filter(([other]) => other !== of)
        const isRefused = others.some(([, isShared]) => !isShared) || (!shared && others.length > 0)
        const claimant = openPidfd(pidOf(of)) as OwnedFd
        if (step.what === 'release') {
          daemons.store.release(name, BY, claimant)
          claimant.close()
          held.delete(of)
        } else if (isRefused)
          expect(() => daemons.store.claim({ name, by: BY, shared, claimant })).toThrow('has claimed')
        else {
          daemons.store.claim({ name, by: BY, shared, claimant }).fd.close()
          held.set(of, shared)
        }
      }
      const expected = Object.fromEntries(
        [...claims].map(([name, held]) => [name, [...held.keys()].map(pidOf).sort()]),
      )
      expect(seen()).toEqual(expected)
      const count = [...claims.values()].reduce((sum, { size }) => sum + size, 0)
      await until(
        'the registry has these claims',
        () => daemons.claims === count,
        2_000,
        () => daemons.claims,
      )
    }
    daemons.close()
    for (const each of processes) each.kill('SIGKILL')
  })
  const taken: Step = { what: 'hand over', how: 'taken' }
  const shared = (of: number): Step => ({ what: 'claim', of, name: 'spool', shared: true })
  const later: Step[] = [shared(0), taken, shared(1), taken, shared(2), taken]
  await fc.assert(property, { numRuns: perLane(5, 200), examples: [[later]] })
})
