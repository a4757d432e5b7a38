import crypto from 'node:crypto'
import { EventEmitter } from 'node:events'
import net from 'node:net'
import os from 'node:os'
import vm from 'node:vm'
import type * as runMain from '../../src/cli/run-main.js'
import type * as workersMain from '../../src/cli/workers-main.js'
import type * as daemon from '../../src/daemon/daemon.js'
import type * as kernelExports from '../../src/kernel/index.js'
import type { Native } from '../../src/kernel/native.js'
import type * as hung from '../../src/member/joining/hung-incumbent.js'
import type * as join from '../../src/member/joining/join.js'
import type * as operator from '../../src/operator/client.js'
import type * as tickets from '../../src/tls/ticket-keys.js'
import type * as records from '../../src/tls13/record-layer.js'
import { bundle, type Edit, ROOT, requireHere } from './bundle.js'
import { COMPUTED, type Computed, simulatedAddon } from './kernel/addon.js'
import { NODE, simulatedChildren } from './kernel/children.js'
import { simulatedFiles } from './kernel/files.js'
import { connect, httpGet } from './kernel/health-checks.js'
import { simulatedPromises } from './kernel/promises.js'
import { DEAD, type SimulatedImmediate, type SimulatedTimer } from './process.js'
import { addSlot, countSlots } from './slots.js'
import { at, World } from './world.js'

type Exports = typeof join &
  typeof hung &
  typeof daemon &
  typeof operator &
  typeof kernelExports &
  typeof workersMain &
  typeof runMain &
  typeof tickets &
  typeof records

/** `src` as the simulated processes have it. */
export interface Code extends Exports {
  readonly addon: Native
  readonly files: typeof simulatedFiles
  readonly promises: typeof simulatedPromises
  readonly Server: typeof SimulatedServer
  readonly modules: readonly string[]
  /** The bundle, with its source map. */
  readonly text: string
  /** The number of module-level variables that are exchanged between processes. */
  readonly slots: number
}

/** Only compute, make an error, or concern processes that are not simulated: they are no calls to a kernel. */
const NO_CALLS: ReadonlySet<string> = new Set([
  'failure',
  ...COMPUTED,
  'connectTcp',
  'openStarter',
  'closeStarter',
  'startsApart',
])

/** Returns the table with functions that first ask the world whether the process dies, stops or lacks something here. A function that the table lacks fails by name. */
function guarded<T extends object>(what: string, table: T): T {
  const calls: Record<string, unknown> = {}
  for (const [name, call] of Object.entries(table) as [string, (...args: unknown[]) => unknown][]) {
    calls[name] =
      NO_CALLS.has(name) || typeof call !== 'function'
        ? call
        : (a: unknown, b: unknown, c: unknown, d: unknown, e: unknown) => {
            at.p.world.enter(at.p, name, a, e)
            return call(a, b, c, d, e)
          }
  }
  return new Proxy(calls, {
    get: (_, name) => {
      if (name in calls) return calls[name as string]
      const isCall = typeof name === 'string' && name !== '__esModule' && name !== 'default'
      return isCall ? () => missing(`${what}.${name}`) : undefined
    },
  }) as T
}

/** The same for functions whose failure is a rejection. */
function guardedLate<T extends object>(what: string, table: T): T {
  const calls = guarded(what, table) as Record<PropertyKey, (...args: unknown[]) => unknown>
  return new Proxy(calls, {
    get: (_, name) => {
      const call = calls[name]
      return call && (async (...args: unknown[]) => call(...args))
    },
  }) as T
}

function randomBytes(count: number): Buffer {
  return Buffer.from(Array.from({ length: count }, () => at.p.world.entropy() * 256))
}

/** No two records of a connection may have the same key and nonce, also if the client sees only one of them. */
function createCipheriv(cipher: 'aes-128-gcm', key: Buffer, iv: Buffer, options: object): crypto.CipherGCM {
  const { nonces } = at.p.world
  const nonce = `${key.toString('hex')} ${iv.toString('hex')}`
  if (nonces.has(nonce)) at.p.fail(new Error('a nonce is used twice'))
  nonces.add(nonce)
  return crypto.createCipheriv(cipher, key, iv, options)
}

/** `node:crypto`, whose random bytes come from the seed. */
const simulatedCrypto = Object.assign(Object.create(crypto), {
  randomBytes,
  createCipheriv,
  randomUUID: () =>
    randomBytes(16)
      .toString('hex')
      .replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-'),
})

function missing(call: string): never {
  if (at.p.dead) throw DEAD
  const error = Object.assign(new Error(`not simulated: ${call}`), { code: 'ENOSYS' })
  at.p.fail(error)
  throw error
}

/** Starts a timer for code of `src`. */
function startTimer(act: () => void, ms: number, repeats = false): SimulatedTimer {
  const { p } = at
  const lateMs = p.world.tap?.timer(p) ?? 0
  const timer = p.setTimer(act, ms, repeats)
  timer.at += lateMs
  timer.ofSource = true
  return timer
}

function wait(ms: number, value?: unknown, { signal }: { signal?: AbortSignal } = {}): Promise<unknown> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason)
      return
    }
    const { p } = at
    const timer = startTimer(() => {
      signal?.removeEventListener('abort', abort)
      resolve(value)
    }, ms)
    const abort = () => {
      p.clearTimer(timer)
      reject(signal!.reason)
    }
    signal?.addEventListener('abort', abort, { once: true })
  })
}

class SimulatedDate extends Date {
  constructor(at: number | string | Date = SimulatedDate.now()) {
    super(at)
  }

  static override now(): number {
    return at.p.world.wallClock
  }
}

/** `AbortSignal`, whose time limits are timers of the process that asks. */
const SimulatedAbortSignal = new Proxy(AbortSignal, {
  get: (real, key) => (key === 'timeout' ? timeoutSignal : Reflect.get(real, key)),
})

function timeoutSignal(ms: number): AbortSignal {
  const controller = new AbortController()
  // As in Node it does not keep the process alive.
  startTimer(() => controller.abort(new DOMException('The operation timed out', 'TimeoutError')), ms).unref()
  return controller.signal
}

function simulatedProcess(module: (name: string) => unknown) {
  const own = {
    get pid() {
      return at.p.pid
    },
    get env() {
      return at.p.env
    },
    get ppid() {
      return at.p.parent === null || at.p.parent.dead ? 1 : at.p.parent.pid
    },
    platform: 'linux',
    arch: 'x64',
    get argv() {
      return [NODE, at.p.script]
    },
    argv0: 'node',
    execArgv: [],
    execPath: NODE,
    versions: process.versions,
    version: process.version,
    uptime: () => (at.p.world.now - at.p.startedAt) / 1000,
    geteuid: () => 1000,
    cwd: () => '/',
    cpuUsage: () => ({ user: 0, system: 0 }),
    memoryUsage: { rss: () => 1e8 },
    hrtime: { bigint: () => BigInt(Math.floor(at.p.world.now * 1e6)) },
    getActiveResourcesInfo: () => [],
    emitWarning() {},
    getBuiltinModule: module,
    nextTick: (act: (...args: unknown[]) => void, ...args: unknown[]) => at.p.tick(() => act(...args)),
    exit: (code = 0) => at.p.world.exit(at.p, 'exits', code),
    kill: (pid: number, signal: NodeJS.Signals | number) => at.p.world.signal(pid, signal),
  }
  const forwarded = ['on', 'once', 'off', 'emit', 'listenerCount', 'listeners', 'prependListener'] as const
  return Object.assign(
    own,
    Object.fromEntries(
      forwarded.map(name => [
        name,
        (...args: unknown[]) => Reflect.apply(at.p.events[name], at.p.events, args),
      ]),
    ),
  )
}

const ACCEPT_AGAIN_MS = 5
const SHORTAGES: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM'])

/** Returns -1 if no connection waits, and null if the kernel lacks something: Node tries again later. */
function acceptOf(fd: number): number | null {
  try {
    return SimulatedServer.addon.accept(fd)
  } catch (error) {
    const { code = '' } = error as NodeJS.ErrnoException
    if (code === 'ECONNABORTED') return -1
    if (!SHORTAGES.has(code)) throw error
    return null
  }
}

/** A connection that the library has accepted itself, on its way to a server. */
class SimulatedSocket extends net.Socket {
  readonly descriptor: number | undefined

  constructor({ fd, ...options }: net.SocketConstructorOpts = {}) {
    super(options)
    this.descriptor = fd
  }
}

/** A server of Node as far as the library uses one whose connections a keeper has: it accepts, and gives each descriptor to `accepted`. */
export class SimulatedServer extends EventEmitter {
  static addon: Native
  listening = false
  accepted: (fd: number) => void = () => {}
  /** As in Node: a server of the library passes the connections of a listener to another server by it. */
  _handle: { onconnection(status: number, client: { readonly fd: number }): void } | null = null
  #fd = -1
  #close: () => void = () => {}

  constructor() {
    super()
    this.on('connection', ({ descriptor }: SimulatedSocket) => {
      if (descriptor !== undefined) this.accepted(descriptor)
    })
  }

  listen({ fd }: { fd: number }): void {
    const { addon } = SimulatedServer
    this.#fd = fd
    this._handle = { onconnection: (_, { fd }) => this.accepted(fd) }
    const poll = addon.createPoll(fd, () => {
      let socket = acceptOf(fd)
      for (; socket !== null && socket !== -1; socket = this.listening ? acceptOf(fd) : -1)
        this._handle!.onconnection(0, { fd: socket })
      if (socket !== null) return
      poll.start(0)
      at.p.setTimer(() => this.listening && poll.start(1), ACCEPT_AGAIN_MS)
    })
    this.#close = () => poll.close()
    poll.start(1)
    this.listening = true
    at.p.setImmediate(() => this.emit('listening'))
  }

  address(): net.AddressInfo | null {
    return this.listening ? { address: '127.0.0.1', family: 'IPv4', port: this.#fd } : null
  }

  close(): void {
    this.listening = false
    this._handle = null
    this.#close()
    SimulatedServer.addon.close(this.#fd)
  }
}

/** Evaluates `src` once, for all processes of all worlds. `edits` seed defects. */
export async function load(edits: readonly Edit[] = []): Promise<Code> {
  const { text, modules } = await bundle(edits)
  const computed = requireHere(`${ROOT}/build/Release/fd_broker.node`) as Computed
  const addon = guarded('addon', simulatedAddon(computed)) as Native
  SimulatedServer.addon = addon
  const files = guarded('fs', simulatedFiles)
  const promises = guardedLate('fs.promises', simulatedPromises)
  const builtins: Record<string, unknown> = {
    'node:fs': files,
    'node:fs/promises': promises,
    'node:child_process': simulatedChildren,
    'node:crypto': simulatedCrypto,
    'node:http': { get: httpGet },
    'node:net': {
      ...net,
      connect,
      Socket: SimulatedSocket,
      Server: SimulatedServer,
      createServer: () => new SimulatedServer(),
    },
    'node:os': {
      tmpdir: () => '/tmp',
      hostname: () => 'simulated',
      constants: os.constants,
      availableParallelism: () => 2,
    },
    'node:timers/promises': {
      setTimeout: wait,
      setImmediate: (value: unknown) => new Promise(resolve => at.p.setImmediate(() => resolve(value))),
    },
    'node:worker_threads': { isMainThread: true },
    'node:module': { createRequire: () => requireHere },
  }
  // Others are pure (path, util, events), or not simulated yet: a use of these reaches the real world.
  const module = (name: string) => builtins[name] ?? requireHere(name)
  const exported = { exports: {} as Exports }
  const globals = {
    require: module,
    exports: exported.exports,
    module: exported,
    process: simulatedProcess(module),
    __simulated: { addon, addSlot },
    globalThis: new Proxy(globalThis, {
      get: (real, key) => at.p.globals[key] ?? Reflect.get(real, key),
      set: (_, key, value) => Reflect.set(at.p.globals, key, value),
    }),
    setTimeout: (act: (...args: unknown[]) => void, ms: number, ...args: unknown[]) =>
      startTimer(() => act(...args), ms),
    setInterval: (act: (...args: unknown[]) => void, ms: number, ...args: unknown[]) =>
      startTimer(() => act(...args), ms, true),
    clearTimeout: (timer: SimulatedTimer | undefined) => at.p.clearTimer(timer),
    clearInterval: (timer: SimulatedTimer | undefined) => at.p.clearTimer(timer),
    setImmediate: (act: (...args: unknown[]) => void, ...args: unknown[]) =>
      at.p.setImmediate(() => act(...args)),
    clearImmediate: (immediate: SimulatedImmediate | undefined) => {
      if (immediate) immediate.act = null
    },
    queueMicrotask: (act: () => void) => {
      const { p } = at
      Promise.resolve()
        .then(act)
        .catch(error => p.fail(error))
    },
    performance: {
      now: () => at.p.world.now - at.p.startedAt,
      get nodeTiming() {
        return { idleTime: 0, uvMetricsInfo: { loopCount: at.p.turns } }
      },
    },
    Date: SimulatedDate,
    AbortSignal: SimulatedAbortSignal,
    Math: Object.create(Math, { random: { value: () => at.p.world.random() } }),
    FinalizationRegistry: class {
      register() {}
      unregister() {}
    },
    Atomics: { wait: () => 'timed-out' },
  }
  const script = new vm.Script(`(function(${Object.keys(globals)}){${text}\n})`, { filename: 'fd-broker.js' })
  new World({ seed: 0 }).start('none', async () => {})
  script.runInThisContext()(...Object.values(globals))
  const own = { addon, files, promises, Server: SimulatedServer, modules, text, slots: countSlots() }
  return Object.assign({}, exported.exports, own)
}
