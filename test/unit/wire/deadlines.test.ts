import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { EtcdSource, HttpSource, type Source } from 'fd-broker/sources'
import { afterEach, beforeEach, describe, expect, it, onTestFinished, vi } from 'vitest'
import { SILENT } from '../../../src/base/logger.js'
import { waitForProof } from '../../../src/connections/move-slice.js'
import { ForwardedCommands } from '../../../src/daemon/service/service-operations.js'
import { FdbError } from '../../../src/errors.js'
import { receiveHello } from '../../../src/holder/admission.js'
import type { Peer } from '../../../src/holder/peer.js'
import { Registry } from '../../../src/holder/registry.js'
import { HANDOFF_TIMES, phaseLimit } from '../../../src/holder/times.js'
import { memoryFile, receiveMessage, socketPair } from '../../../src/kernel/index.js'
import { DaemonEntries } from '../../../src/member/hosting/daemon-entries.js'
import { HolderLink } from '../../../src/member/hosting/holder-link.js'
import { OperatorRequests } from '../../../src/member/hosting/operator-requests.js'
import { OperatorClient } from '../../../src/operator.js'
import { runCheck } from '../../../src/probing/health-check.js'
import { fdbroker } from '../../../src/proto/wire.js'
import { Channel } from '../../../src/wire/channel.js'
import { encodeFrame } from '../../../src/wire/frame.js'
import { Link, VERSIONS } from '../../../src/wire/link.js'
import { ChangeNotifier, deadlineError } from '../../../src/wire/pending.js'
import { StateLog } from '../../fixtures/state.js'
import { forwardedUpgrades, peerWith } from '../../holder-support/processes.js'
import { StatusRequests } from '../../holder-support/status-requests.js'
import { limitedWaits, PROVED } from '../../walls/deadlines.js'

const ROOT = join(import.meta.dirname, '../../..')

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] }))
afterEach(() => void vi.useRealTimers())

/** The event loop goes round; no time passes. */
async function turns(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise(resolve => setImmediate(resolve))
}

/** A link whose peer has connected, and neither reads nor writes. */
function silentLink(): Link {
  const [ours, theirs] = socketPair('silent')
  const link = new Link(new Channel(ours))
  link.start({ message: () => {}, broken: () => {}, end: () => {} })
  onTestFinished(() => {
    link.close()
    theirs.close()
  })
  return link
}

/** A member of a daemon that takes everything and answers nothing. */
function silentPeer(): Peer {
  return peerWith({ id: 2, pid: 7, link: silentLink() })
}

/** The URL of a server that takes connections and requests, and answers nothing. */
async function silentServer(): Promise<string> {
  const peers: net.Socket[] = []
  const server = net.createServer(peer => void peers.push(peer))
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => {
    server.close()
    for (const peer of peers) peer.destroy()
  })
  return `http://127.0.0.1:${(server.address() as net.AddressInfo).port}`
}

/** Reads the first batch of a source. */
async function firstOf(source: Source): Promise<void> {
  const { signal } = new AbortController()
  for await (const _ of source.read(null, signal, new Map())) return
}

interface Wait {
  /** When it must have ended, milliseconds. */
  readonly ms: number
  /** Part of its failure. */
  readonly says?: string
  readonly begin: () => Promise<unknown>
}

const never = new AbortController().signal
const sum = HANDOFF_TIMES.ready + HANDOFF_TIMES.quiesce + HANDOFF_TIMES.freeze

/** Every wait for a peer that lives and says nothing. */
const WAITS: Readonly<Record<string, Wait>> = {
  'a frame that the peer does not read': {
    ms: 10_000,
    begin: () => silentLink().channel.send(Buffer.alloc(16 << 20)),
  },
  'a Hello that does not come': {
    ms: 5_000,
    begin: () => {
      const [ours, theirs] = socketPair('silent')
      const peer = new Channel(theirs)
      onTestFinished(() => peer.close())
      const who = { pid: process.pid, uid: process.geteuid!(), gid: 0 }
      const options = { versions: VERSIONS, service: 'shop', timeoutMs: 5_000, logger: SILENT }
      receiveHello(ours, who, options, () => {})
      return new Promise(resolve => peer.start({ message: resolve, end: resolve }))
    },
  },
  'a Welcome that does not come': {
    ms: 3_000,
    begin: () => {
      const [ours, theirs] = socketPair('silent')
      onTestFinished(() => theirs.close())
      const hello = { service: 'shop', versions: VERSIONS, wantedTimes: {}, stateFile: null }
      return HolderLink.greet(ours, hello, { timeoutMs: 3_000, signal: undefined })
    },
  },
  'the acknowledgement of descriptors': {
    ms: 2_000,
    begin: async () => {
      using fd = memoryFile('one', 'one')
      await silentLink().sendBundle([{ role: 'named', name: 'one', fd }], 2_000)
    },
  },
  'the registration of a listener': {
    ms: 2_000,
    begin: async () => {
      using fd = memoryFile('one', 'one')
      const link = silentLink()
      vi.spyOn(link, 'sendBundle').mockResolvedValue()
      const settings = { logger: SILENT, timeout: 2_000 }
      const joined = { link, post: () => {} }
      const entries = new DaemonEntries({ settings, registry: new Registry(), joined, throwIfLeft: () => {} })
      await entries.give([{ role: 'named', name: 'one', fd }])
    },
  },
  'the reply of a member to a command': {
    ms: 60_000,
    begin: () =>
      new ForwardedCommands().ask(
        silentPeer(),
        { name: 'x', body: Buffer.alloc(0), service: '' },
        { signal: never },
      ),
  },
  'the answer of a member to an upgrade': {
    ms: sum + HANDOFF_TIMES.prepare + HANDOFF_TIMES.commit + 14_000,
    begin: () =>
      forwardedUpgrades().ask(
        silentPeer(),
        { argv: [], timeoutMs: 0, service: '', killStuck: false, without: [] },
        () => {},
        never,
      ),
  },
  'the answer of a member whose successor has lost its connection': {
    ms: 1_500,
    says: 'phase offering; the incumbent keeps serving',
    begin: () => {
      const [peer, upgrades] = [silentPeer(), forwardedUpgrades()]
      const order = { argv: [], timeoutMs: 0, service: '', killStuck: false, without: [] }
      const answer = upgrades.ask(peer, order, () => {}, never)
      upgrades.failed({ code: 'ERR_FDB_SUCCESSOR_LOST', message: 'lost', phase: 'offering', at: 0 }, null)
      return answer
    },
  },
  'the answer of a member that has connected again, whose upgrade is lost': {
    ms: 1_500,
    says: 'try again',
    begin: () => {
      const [peer, upgrades] = [silentPeer(), forwardedUpgrades()]
      const order = { argv: [], timeoutMs: 0, service: '', killStuck: false, without: [] }
      const answer = upgrades.ask(peer, order, () => {}, never)
      peer.link = silentPeer().link
      upgrades.changed()
      return answer
    },
  },
  'the answer of a member to a question for its status': {
    ms: 1_000,
    begin: () => new StatusRequests().ask(silentPeer()),
  },
  'the word of a daemon that is asked to give up a successor': {
    ms: 1_000,
    begin: () =>
      new OperatorRequests(
        { status: vi.fn(), upgrade: vi.fn(), command: vi.fn() },
        new StateLog(),
        silentLink,
      ).cancelHandoff(new FdbError('ERR_FDB_ABORTED', 'the operator has cancelled it')),
  },
  'a change that does not come': { ms: 700, begin: () => new ChangeNotifier().until(() => false, 700) },
  'the answer to an operator': {
    ms: 1_500,
    begin: async () => {
      const folder = mkdtempSync(join(tmpdir(), 'fdb-silent-'))
      const path = join(folder, 'control.sock')
      const peers: net.Socket[] = []
      const server = net.createServer(peer => void peers.push(peer))
      await new Promise<void>(resolve => server.listen(path, resolve))
      onTestFinished(() => {
        server.close()
        for (const peer of peers) peer.destroy()
        rmSync(folder, { recursive: true, force: true })
      })
      const client = await OperatorClient.connect(path)
      onTestFinished(() => client.close())
      await client.command('x', '', { timeoutMs: 1_500 })
    },
  },
  'the answer of etcd': {
    ms: 10_000,
    says: 'no end within 10000 ms',
    begin: async () => firstOf(new EtcdSource({ hosts: [await silentServer()], prefix: '/' })),
  },
  'the answer of an HTTP server with a section': {
    ms: 30_000,
    says: 'no end within 30000 ms',
    begin: async () => firstOf(new HttpSource({ url: await silentServer() })),
  },
  'an answer over the connections of a first wave': {
    ms: 6_000,
    begin: () => waitForProof([{ asked: true, answered: false }], 1_000, () => false),
  },
}

describe('a wait for a peer that lives and says nothing', () => {
  it.each(Object.entries(WAITS))('ends in its time, and not before: %s', async (_name, wait) => {
    const { ms, begin, says = '' } = wait
    let over = false
    let failure = ''
    const end = (error?: unknown) => {
      over = true
      failure = `${error}`
    }
    begin().then(() => end(), end)
    await turns()
    await vi.advanceTimersByTimeAsync(ms - 100)
    await turns()
    expect(over).toBe(false)
    await vi.advanceTimersByTimeAsync(250)
    await turns()
    expect(over).toBe(true)
    expect(failure).toContain(says)
  })

  it('counts as a no of a version that is asked whether it is well', async () => {
    vi.useRealTimers()
    const question = { name: 'it', run: () => new Promise<never>(() => {}) }
    expect(await runCheck(question, 20, never)).toBe('it: no answer within 20 ms')
  })
})

describe('the first list of a watch of descriptors', () => {
  /** A watch that has a second for its first list, and the daemon's end of the connection. */
  async function watching() {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-watch-'))
    const path = join(folder, 's')
    let daemon!: net.Socket
    const server = net.createServer(peer => {
      daemon = peer
    })
    await new Promise<void>(resolve => server.listen(path, resolve))
    const client = await OperatorClient.connect(path)
    onTestFinished(() => {
      client.close()
      daemon.destroy()
      server.close()
      rmSync(folder, { recursive: true, force: true })
    })
    const first = client.descriptors.watch({ timeout: 1_000 }).next()
    first.catch(() => {})
    await turns()
    return { daemon, first }
  }

  it('counts as in time if this process, which was stopped, reads it late', async () => {
    const { daemon, first } = await watching()
    const reply = { descriptorReply: { request: 1, ok: true, json: '[]' } }
    daemon.write(encodeFrame(fdbroker.wire.Envelope.encode(reply).finish(), 0))
    vi.advanceTimersByTime(1_001)
    await turns()
    expect(await first).toEqual({ done: false, value: [] })
  })

  it('has a limit', async () => {
    const { first } = await watching()
    vi.advanceTimersByTime(1_001)
    await turns()
    await expect(first).rejects.toMatchObject({ code: 'ERR_FDB_DEADLINE' })
  })
})

describe('the limit of a frame', () => {
  it('counts for each that waits behind one that was late, and went', async () => {
    const [ours, theirs] = socketPair('slow')
    const channel = new Channel(ours, { sendTimeoutMs: 1_000 })
    channel.start({ message: () => {}, end: () => {} })
    onTestFinished(() => {
      void channel.close()
      theirs.close()
    })
    const first = Array.from({ length: 40 }, () => channel.send(Buffer.alloc(20_000)))
    await vi.advanceTimersByTimeAsync(600)
    let late = false
    channel.send(Buffer.alloc(16 << 20)).catch(() => {
      late = true
    })
    const room = Buffer.alloc(1 << 16)
    let went = false
    void Promise.all(first).then(() => {
      went = true
    })
    while (!went) {
      receiveMessage(theirs, room)
      await new Promise(resolve => setImmediate(resolve))
    }
    await vi.advanceTimersByTimeAsync(500)
    await turns()
    expect(late).toBe(false)
    await vi.advanceTimersByTimeAsync(700)
    await turns()
    expect(late).toBe(true)
  })
})

describe('a phase of a handoff', () => {
  it('has a limit wherever another process must act', () => {
    const waits = ['offering', 'quiescing', 'freezing', 'preparing', 'committing', 'returning'] as const
    for (const phase of waits) expect(phaseLimit(phase, HANDOFF_TIMES), phase).toBeGreaterThan(0)
    for (const phase of ['idle', 'probation', 'released', 'rebuilding'] as const)
      expect(phaseLimit(phase, HANDOFF_TIMES), phase).toBeUndefined()
  })
})

describe('the table of limits', () => {
  const waits = limitedWaits(join(ROOT, 'src'))

  it('has a row for every wait that has a limit: say in test/walls/deadlines.ts where a new one is proved', () => {
    const counts = (files: readonly string[]) =>
      Object.fromEntries([...new Set(files)].map(file => [file, files.filter(each => each === file).length]))
    const proved = Object.entries(PROVED).flatMap(([file, proofs]) => proofs.map(() => file))
    expect(counts(waits.map(wait => wait.slice(0, wait.indexOf(':'))))).toEqual(counts(proved))
    expect(waits.length).toBeGreaterThan(18)
  })

  it('names tests that are there', () => {
    for (const where of Object.values(PROVED).flat()) {
      const [test = '', title = ''] = where.split(/: (.*)/s)
      const file = join(ROOT, 'test', `${test}.test.ts`)
      expect(existsSync(file), file).toBe(true)
      expect(readFileSync(file, 'utf8').includes(title), where).toBe(true)
    }
  })
})

it('a deadline that is the rest of another names whole milliseconds', () => {
  const { message, details } = deadlineError('the answer', 3_999.987_912)
  expect(message).toMatch(/^the answer did not happen within 4000 ms: /)
  expect(details).toEqual({ what: 'the answer', ms: 4_000 })
})
