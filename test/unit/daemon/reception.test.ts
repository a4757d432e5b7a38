import { describe, expect, it, onTestFinished } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { AccessCheck } from '../../../src/daemon/policy/access-check.js'
import { ANYONE, OWNERS_ONLY } from '../../../src/daemon/policy/policy.js'
import { type DaemonContext, DaemonReception } from '../../../src/daemon/reception.js'
import type { Services } from '../../../src/daemon/services.js'
import type { HolderPhase } from '../../../src/handoff/phases.js'
import type { Caller } from '../../../src/holder/admission.js'
import { memoryFile } from '../../../src/kernel/index.js'
import type { Operations } from '../../../src/operator/requests.js'
import { DAEMON_ITSELF } from '../../../src/operator/service-name.js'
import type { LinkHandler, WireBody } from '../../../src/wire/link.js'
import { ChangeNotifier } from '../../../src/wire/pending.js'
import { until } from '../../processes/until.js'

/** A joiner, as the reception sees it. */
function joiner(service: string, uid = 0) {
  const told: WireBody[] = []
  const known: { handler: LinkHandler | null } = { handler: null }
  const link = {
    open: true,
    channel: { allow() {}, pause() {}, resume() {} },
    start(handler: LinkHandler) {
      known.handler = handler
    },
    send(body: WireBody) {
      told.push(body)
      return Promise.resolve()
    },
    close() {
      link.open = false
    },
  }
  const pidfd = memoryFile('in place of a pidfd', 'a memory file')
  onTestFinished(() => pidfd.close())
  const who = { pid: 7, uid, gid: 0, pidfd }
  const caller = { hello: { service }, intent: 'join', link, ...who } as unknown as Caller
  return { caller, link, pidfd, known, told, code: () => told[0]?.reject?.code }
}

function staffed(gate = new AccessCheck(OWNERS_ONLY, SILENT)) {
  const changes = new ChangeNotifier()
  const state = {
    settled: true,
    paused: false,
    restarts: 0,
    joined: [] as Caller[],
    offered: [] as Caller[],
    /** The service of the callers' name: `another` after an end and a new begin. */
    service: 'the first' as 'the first' | 'another',
    joinedServices: [] as string[],
    /** Resolves when the upgrade of the service that has just ended is decided. */
    decided: null as Promise<void> | null,
    /** The service waits for the caller itself to come back. */
    awaitsCaller: false,
    /** The phase of the daemon's own handoff, and that from the next offer on. */
    phase: 'idle' as HolderPhase,
    phaseOfOffer: 'idle' as HolderPhase,
  }
  const serviceOf = (which: string) => ({
    join: (caller: Caller) => {
      state.joined.push(caller)
      state.joinedServices.push(which)
    },
    joinsAnew: () => state.awaitsCaller && !(state.awaitsCaller = false),
    operations: { whenDecided: () => state.decided },
  })
  const all = { 'the first': serviceOf('the first'), another: serviceOf('another') }
  const receive = (caller: Caller) => {
    state.offered.push(caller)
    state.phase = state.phaseOfOffer
  }
  const clients = { receive }
  const machine: DaemonContext['runtime']['machine'] = {
    changes,
    phase: 'serving',
    holder: {
      get phase() {
        return state.phase
      },
    },
  }
  const services = {
    get idle() {
      return state.settled
    },
    busy: [],
    writeForSuccessor() {},
    pause() {
      state.paused = true
    },
    resume() {
      state.paused = false
    },
    findOrCreate: () => all[state.service],
    get: () => all[state.service],
  }
  const reception = new DaemonReception(gate, { passed: null, takesOver: false })
  reception.attach({
    runtime: {
      clients,
      machine,
      settings: { control: '/run/shop/broker.sock', logger: SILENT },
    },
    services: services as unknown as Services,
    restart: () => {
      state.restarts++
      changes.notify()
    },
    operationsFor: () => ({}) as Operations,
  })
  return { reception, changes, state }
}

function open(gate?: AccessCheck) {
  const { reception, ...rest } = staffed(gate)
  reception.open()
  return { reception, ...rest }
}

/** Until what was begun has come to its end. */
async function turns(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise(resolve => setImmediate(resolve))
}

describe('a caller of a daemon', () => {
  it('gets an answer, also where the daemon could not take over everything of the previous one', () => {
    const { reception, state } = staffed()
    const { caller } = joiner('shop')
    reception.receive(caller)
    const fails = () => {
      throw new Error('dup EMFILE: too many open files')
    }
    expect(() => reception.open(fails)).toThrow('EMFILE')
    expect(state.joined).toEqual([caller])
  })

  it('as its successor is offered nothing while another one waits for that, and changes nothing for that one', async () => {
    const { reception, changes, state } = open()
    state.settled = false
    const [first, second] = [joiner(DAEMON_ITSELF), joiner(DAEMON_ITSELF)]
    const { offered } = state
    reception.receive(first.caller)
    await until('what it has changes no more', () => state.paused)
    reception.receive(second.caller)
    await until('the second one is told, or offered', () => second.told.length + offered.length > 0)
    expect([second.code(), offered]).toEqual(['ERR_FDB_BUSY', []])
    expect([state.paused, reception.handsOver]).toEqual([true, true])
    state.settled = true
    changes.notify()
    await until('the first one is offered it', () => offered.length > 0)
    expect(offered).toEqual([first.caller])
  })

  it('as its successor, is offered nothing before all handoffs have ended, also after successors that have failed', async () => {
    const { reception, changes, state } = open()
    state.phaseOfOffer = 'offering'
    const story = async () => {
      const { caller, told } = joiner(DAEMON_ITSELF)
      state.settled = false
      reception.receive(caller)
      await turns()
      changes.notify()
      await turns()
      const waits = [state.paused, reception.handsOver, state.offered.includes(caller), told.length]
      state.settled = true
      changes.notify()
      await turns()
      const comes = [state.paused, reception.handsOver, state.offered.at(-1) === caller]
      // The successor fails.
      state.phase = 'idle'
      changes.notify()
      return { waits, comes, after: [state.paused, reception.handsOver] }
    }
    const first = await story()
    expect(first).toEqual({ waits: [true, true, false, 0], comes: [true, true, true], after: [false, false] })
    for (let n = 0; n < 3; n++) expect(await story()).toEqual(first)
  })

  it('as its successor, and is another user, gets nothing, whatever the rules let others do', () => {
    const anyone = { key: 'anyone', who: [ANYONE] }
    const gate = new AccessCheck({ ...OWNERS_ONLY, operate: anyone }, SILENT)
    const { reception, state } = open(gate)
    const foreign = joiner(DAEMON_ITSELF, 12_345)
    const { offered } = state
    expect(reception.mayConnect(12_345)).toBe(true)
    for (const intent of ['join', 'back', 'draining'] as const)
      reception.receive({ ...foreign.caller, intent })
    expect([foreign.code(), offered, reception.handsOver]).toEqual(['ERR_FDB_DENIED', [], false])
  })

  /** The reasons why a caller waits. The function makes callers wait, and returns another one, which ends the wait. */
  const waits: [string, (made: ReturnType<typeof staffed>) => Promise<() => void>, string][] = [
    [
      'that the daemon serves',
      async ({ reception }) =>
        () =>
          reception.open(),
      'shop',
    ],
    [
      'that it admits processes',
      async ({ reception }) => {
        reception.open()
        reception.hold()
        return () => reception.admit()
      },
      'shop',
    ],
    [
      'that the last upgrade is decided',
      async ({ reception, state }) => {
        reception.open()
        let decide!: () => void
        state.decided = new Promise(resolve => {
          decide = resolve
        })
        return decide
      },
      'shop',
    ],
    [
      'that its successor has failed',
      async ({ reception, changes, state }) => {
        reception.open()
        state.settled = false
        const first = joiner(DAEMON_ITSELF)
        reception.receive(first.caller)
        await turns()
        return () => {
          first.link.close()
          changes.notify()
        }
      },
      'shop',
    ],
    [
      'as its successor, that the last upgrade ends',
      async ({ reception, changes, state }) => {
        reception.open()
        state.settled = false
        return () => {
          state.settled = true
          changes.notify()
        }
      },
      DAEMON_ITSELF,
    ],
  ]

  it.each(waits)('waits %s, and is served then', async (_what, begin, service) => {
    const made = staffed()
    const end = await begin(made)
    const { caller } = joiner(service)
    made.reception.receive(caller)
    await turns()
    expect([...made.state.joined, ...made.state.offered]).toEqual([])
    end()
    await turns()
    expect([...made.state.joined, ...made.state.offered]).toEqual([caller])
  })

  it.each(waits)(
    'waits %s, leaves meanwhile, and gets nothing: its pidfd closes',
    async (_what, begin, service) => {
      const made = staffed()
      const end = await begin(made)
      const { caller, link, known, pidfd } = joiner(service)
      made.reception.receive(caller)
      await turns()
      link.close()
      known.handler?.end(null)
      made.changes.notify()
      end()
      await turns()
      expect([...made.state.joined, ...made.state.offered]).toEqual([])
      expect(pidfd.closed).toBe(true)
    },
  )

  it.each(waits.filter(([, , service]) => service === 'shop'))(
    'waits %s, and joins the service that has begun anew meanwhile',
    async (_what, begin) => {
      const made = staffed()
      const end = await begin(made)
      const { caller } = joiner('shop')
      made.reception.receive(caller)
      await turns()
      made.state.service = 'another'
      made.state.decided = null
      end()
      await turns()
      expect([made.state.joined, made.state.joinedServices]).toEqual([[caller], ['another']])
    },
  )

  it('waits that the last upgrade is decided, and then for the next daemon, which takes over meanwhile', async () => {
    const { reception, changes, state } = open()
    let decide!: () => void
    state.decided = new Promise(resolve => {
      decide = resolve
    })
    const { caller } = joiner('shop')
    reception.receive(caller)
    state.settled = false
    const next = joiner(DAEMON_ITSELF)
    reception.receive(next.caller)
    await turns()
    expect(reception.handsOver).toBe(true)
    decide()
    await turns()
    expect(state.joined).toEqual([])
    state.decided = null
    next.link.close()
    changes.notify()
    await turns()
    expect([reception.handsOver, state.joined]).toEqual([false, [caller]])
  })

  it('joins anew, although the service waits that he comes back, when that is decided without him', async () => {
    const { reception, state } = open()
    const ends: (() => void)[] = []
    const decided = () => new Promise<void>(resolve => ends.push(resolve))
    state.decided = decided()
    state.awaitsCaller = true
    const { caller } = joiner('shop')
    reception.receive(caller)
    state.decided = decided()
    ends[0]!()
    await turns()
    expect([state.awaitsCaller, state.joined]).toEqual([false, []])
    ends[1]!()
    await turns()
    expect(state.joined).toEqual([caller])
  })

  it('and waits there is let go of when he leaves', () => {
    const { reception, state } = open()
    reception.hold()
    const [gone, stays] = [joiner('shop'), joiner('shop')]
    for (const { caller } of [gone, stays]) reception.receive(caller)
    gone.known.handler?.end(null)
    expect([gone.pidfd.closed, stays.pidfd.closed]).toEqual([true, false])
    reception.admit()
    expect(state.joined).toEqual([stays.caller])
  })
})

describe('a daemon whose successor fails', () => {
  it.each([
    ['keeps its members, if the successor was not told to serve', 'preparing', 0],
    ['waits for its members to return, if they may have been with the successor', 'committing', 1],
  ] as const)('%s', async (_, phase, restarts) => {
    const { reception, changes, state } = open()
    state.phaseOfOffer = 'offering'
    reception.receive(joiner(DAEMON_ITSELF).caller)
    await until('the successor is offered everything', () => state.offered.length > 0)
    for (const each of [phase, 'idle'] as const) {
      state.phase = each
      changes.notify()
    }
    expect([state.restarts, state.paused]).toEqual([restarts, false])
  })
})
