import { existsSync } from 'node:fs'
import type net from 'node:net'
import {
  answers,
  type Check,
  FdbError,
  join,
  type Listener,
  type Member,
  type RetiredReason,
} from '../index.js'
import { duplicateLent, listenOver } from '../kernel/index.js'
import { noMember } from '../member/process-member.js'
import { activeResources } from '../member/shutdown.js'
import { HELD_HANDLE, holdHandle, listeningDescriptorOf, nameSocket } from '../node/held-handle.js'
import { keptByText } from '../operator/status-report.js'
import { OperatorClient } from '../operator.js'
import { startedAs } from '../os/command-line.js'
import { PARENT } from './exclusion.js'
import { addressesOf, addressNow, type ListenRequest, listenerName } from './listen-request.js'
import { linkLog, openPart, ownPart } from './log-files.js'
import { openInspector } from './node-startup.js'
import { Placeholder } from './placeholder.js'
import type { AutoSettings } from './settings.js'
import { autoLog, messageOf, say, sayOnce } from './stderr.js'
import type { WaitingServer } from './waiting-server.js'

/** Limit for the serving version to report its program. */
const STATUS_MS = 5_000
/** Interval of health checks before the first success. */
const RETRY_MS = 100

/** The program as a member of its service: its servers are the member's listeners. */
export class AutoService {
  readonly #settings: AutoSettings
  readonly #member: Member
  readonly #shutdown: ProgramShutdown
  /** Names of the listeners that the previous version offers. */
  readonly #offered: ReadonlySet<string>
  readonly #names = new Map<net.Server, string>()
  /** Listeners that have a server. */
  readonly #listeners = new Map<string, Listener>()
  /** Serializes attaches per listener name: a program may close a server and listen again at once. */
  readonly #attaching = new Map<string, Promise<void>>()
  /** Adopted listeners whose server the program has closed: the previous version still serves the address. */
  readonly #unusedListeners = new Map<string, Listener>()
  readonly #listening = new ListeningOnce()
  #adopted = 0
  #quiet: NodeJS.Timeout | undefined
  #resolveCall: () => void = () => {}
  readonly #call = new Promise<void>(resolve => {
    this.#resolveCall = resolve
  })
  #phase: 'starts' | 'readies' | 'serves' | 'left' = 'starts'
  readonly #onLeft: () => void
  #leaving: Promise<void> | null = null
  /** The log of `fd-broker start`; null if this process was not started by it. */
  readonly #log: ReturnType<typeof ownPart>

  /**
   * Joins the service. Returns null, after a message, if another program serves under its name. `onLeft` is called when this program
   * has left the service, and may join again. Rejects as `join()` does.
   */
  static async join(settings: AutoSettings, onLeft: () => void): Promise<AutoService | null> {
    const { control, service, drainMs, exitMs, readyMs, probationMs, pidFile, stateFile } = settings
    const other = settings.isNamed ? null : await otherProgram(settings)
    if (other !== null) {
      say(
        `"${service}" is the service of another program, ${other}: this program runs without upgrades; set FD_BROKER_NAME to a name of its own (or to "${service}" to make it the next version of that program)`,
      )
      return null
    }
    const joining = join({
      service,
      control,
      logger: autoLog(settings.log),
      systemd: 'auto',
      // `ends`, because the placeholder command replaces the process.
      mainProcess: 'ends',
      exitWhenRetired: Math.max(HANDLER_MS, exitMs),
      upgrade: {
        ...(readyMs !== undefined && { ready: readyMs }),
        ...(probationMs !== undefined && { probation: probationMs }),
      },
      ...(drainMs !== undefined && { drain: { timeout: drainMs } }),
      ...(pidFile !== undefined && { pidFile }),
      ...(stateFile !== undefined && { stateFile }),
    })
    return new AutoService(settings, await joining.catch(joinFailed), onLeft)
  }

  private constructor(settings: AutoSettings, member: Member, onLeft: () => void) {
    this.#settings = settings
    this.#member = member
    this.#onLeft = onLeft
    this.#offered = new Set(member.known)
    const placeholder = new Placeholder(settings.control)
    this.#shutdown = new ProgramShutdown(member, settings.exitMs, placeholder)
    const log = ownPart(startedAs.env)
    this.#log = log
    member.describe(() => ({ program: settings.program, ...(log !== null && { log: log.log }) }))
    if (log !== null) {
      member.outputOfSuccessors(() => openPart(log.log, startedAs.env))
    }
    // Servers keep the process alive, as without fd-broker.
    member.keepAlive(false)
    member.on('retiring', () => {
      member.keepAlive(true)
      // Order matters: libuv drops a signal of this turn if its last listener is removed before the next is added.
      placeholder.markReplaced()
      this.#shutdown.stopHandlingSignals()
      this.#listening.setAside(this.#names.keys())
    })
    member.on('reinstated', () => {
      if (log !== null) linkLog(log, member.generation, false)
      member.keepAlive(false)
      this.#listening.bringBack()
      this.#shutdown.handleSignals()
      placeholder.stop()
    })
    process.once('beforeExit', this.#onBeforeExit)
    // The program's handler of a signal may exit as soon as its server has closed, before the member has.
    process.once('exit', this.#onExit)
    if (this.#offered.size > 0) openInspector()
  }

  /** Resolves when this program has left the service; null if it is not leaving. */
  get leaving(): Promise<void> | null {
    return this.#leaving
  }

  /** Whether the previous version may have a socket for a server of this one. */
  get adopts(): boolean {
    return this.#offered.size > 0 && this.#phase === 'starts'
  }

  /** See {@link Auto.adopt}. */
  adopt(server: net.Server, request: ListenRequest): boolean {
    for (const address of addressesOf(request)) {
      const name = listenerName(address, other => this.#isUsed(other))
      if (this.#isUsed(name) || (address.kind === 'unix' && !address.abstract && !existsSync(address.path!)))
        continue
      const fd = this.#member.offered(name, address)
      if (fd === null) continue
      const { callback, signal, backlog } = request
      if (callback !== undefined) server.once('listening', callback)
      let begin: (() => void) | null = null
      const listen = () => listenOver(server, fd, backlog)
      if (HELD_HANDLE.works) begin = holdHandle(server, listen)
      else listen()
      if (request.path !== undefined) nameSocket(server, request.path)
      if (signal?.aborted) process.nextTick(() => server.close())
      else signal?.addEventListener('abort', () => server.close(), { once: true })
      this.#adopted++
      this.#member.keepAlive(true)
      const open = async () => this.#unusedListeners.get(name) ?? (await this.#member.listen(name, address))
      const accept = begin ?? (() => {})
      // Without a listener of the member, the server accepts as soon as it reports that it listens.
      this.#attach(server, name, open, listener => listener.serveListening(server, accept), accept)
      return true
    }
    return false
  }

  /** Takes over a server that is already listening. */
  take(waiting: WaitingServer, request: ListenRequest): void {
    const { server } = waiting
    const lent = listeningDescriptorOf(server)
    if (lent === null || this.#phase === 'left') {
      waiting.handOver(() => {})
      return
    }
    const address = addressNow(server, request)
    const name = listenerName(address, other => this.#isUsed(other))
    const fd = duplicateLent(lent, name)
    const open = () => this.#member.listenOn(name, address, fd)
    this.#attach(server, name, open, listener =>
      waiting.handOver(() => listener.serveListening(server, () => {})),
    )
  }

  #isUsed(name: string): boolean {
    return [...this.#names.values()].includes(name)
  }

  #attach(
    server: net.Server,
    name: string,
    open: () => Promise<Listener>,
    serve: (listener: Listener) => void,
    failed: () => void = () => {},
  ): void {
    process.env[PARENT] = `${process.pid}`
    this.#names.set(server, name)
    const before = this.#attaching.get(name) ?? Promise.resolve()
    const attached = before
      .then(open)
      .then(listener => {
        if (this.#names.get(server) !== name) {
          this.#releaseListener(name, listener)
          return
        }
        this.#unusedListeners.delete(name)
        this.#listeners.set(name, listener)
        serve(listener)
      })
      .catch(error => {
        sayOnce(`${name} will not be handed over to the next version: ${messageOf(error)}`)
        failed()
      })
    this.#attaching.set(name, attached)
    onServerClose(server, { isDetached: () => this.#isTaken(server), closed: () => this.#onClosed(server) })
    this.#onListening()
  }

  /** Whether another process has taken over the server. */
  #isTaken(server: net.Server): boolean {
    const { phase } = this.#member
    return this.#names.has(server) && !server.listening && phase !== 'joining' && phase !== 'ready'
  }

  #onClosed(server: net.Server): void {
    const name = this.#names.get(server)
    if (name === undefined) return
    this.#names.delete(server)
    if (this.#names.size === 0 && this.#phase === 'starts') {
      // Without a server this process does not take over, unless the program opens one.
      clearTimeout(this.#quiet)
      this.#member.keepAlive(false)
    }
    const listener = this.#listeners.get(name)
    if (listener === undefined || this.#phase === 'left') return
    if (this.#phase === 'starts') listener.forget(server)
    this.#releaseListener(name, listener)
  }

  /** Releases a listener whose server the program has closed. */
  #releaseListener(name: string, listener: Listener): void {
    this.#listeners.delete(name)
    if (listener.adopted && this.#phase === 'starts') {
      this.#unusedListeners.set(name, listener)
      return
    }
    this.#member.unlisten(name)
    if (this.#names.size === 0 && this.#phase === 'serves') this.#leave()
  }

  /** Called when a server listens; once all do, this process is ready. */
  #onListening(): void {
    if (this.#phase !== 'starts') return
    clearTimeout(this.#quiet)
    const names = new Set(this.#names.values())
    const whole = [...this.#offered].every(name => names.has(name))
    // Waits for servers that the program opens in the same turn.
    if (whole) this.#quiet = setTimeout(() => void this.#ready(), 0)
    else this.#quiet = setTimeout(() => this.#finishStart(), this.#settings.quietMs)
  }

  #finishStart(): void {
    if (this.#adopted > 0) {
      void this.#ready()
      return
    }
    const { service } = this.#settings
    const addresses = [...this.#offered].join(', ')
    say(
      `another process serves "${service}" on other addresses (${addresses}): this program is not its next version, and runs without upgrades; to change the addresses, stop that process first; to run both, set FD_BROKER_NAME to give this one a service of its own`,
    )
    this.#leave(
      `the next version listens on none of the addresses of "${service}" (${addresses}); to change the addresses, stop the service first`,
    )
  }

  /** See {@link AutoSettings.ready}. */
  reportReady(): void {
    this.#resolveCall()
  }

  async #ready(): Promise<void> {
    this.#phase = 'readies'
    const { service, log, ready } = this.#settings
    try {
      await Promise.all(this.#attaching.values())
      for (const [name, listener] of this.#unusedListeners) this.#releaseListener(name, listener)
      await this.#member.ready({ checks: this.#checks(ready), unserved: true })
    } catch (error) {
      this.#onFailed(error)
      return
    }
    this.#phase = 'serves'
    if (this.#log !== null) linkLog(this.#log, this.#member.generation, true)
    this.#member.keepAlive(false)
    this.#shutdown.handleSignals()
    if (log !== 'warn') say(`generation ${this.#member.generation} of "${service}" serves`)
    if (this.#names.size === 0) this.#leave()
  }

  #checks(ready: AutoSettings['ready']): Check[] {
    if (ready === 'listen') return []
    if (ready === 'call') return [() => this.#call]
    const servers = [...this.#names.keys()].filter(server => 'maxHeadersCount' in server)
    return servers.slice(0, 1).map(server => untilHealthy(answers(server, { path: ready.path })))
  }

  #onFailed(error: unknown): void {
    if (this.#phase === 'left') return
    this.#shutdown.leave()
    this.#phase = 'left'
    if (this.#offered.size === 0) {
      say(`this process runs without upgrades: ${messageOf(error)}`)
      this.#onLeft()
      return
    }
    say(`this version does not serve: ${messageOf(error)}`)
    process.exit(1)
  }

  /** Leaves the service when the program ends without a server. */
  readonly #onBeforeExit = (): void => {
    if (this.#names.size === 0 && this.#phase === 'starts') this.#leave()
  }

  readonly #onExit = (): void => this.#member.exits()

  #leave(why?: string): void {
    if (this.#phase === 'left') return
    this.#phase = 'left'
    clearTimeout(this.#quiet)
    process.off('beforeExit', this.#onBeforeExit)
    this.#shutdown.leave()
    this.#member.keepAlive(true)
    const left = () => {
      process.off('exit', this.#onExit)
      this.#onLeft()
    }
    const closed = why === undefined ? this.#member.close() : this.#member.closeBecause(why)
    this.#leaving = closed.then(left, left)
  }
}

/** Starts work that waits in `runOnce()`, because this process has no member. */
function joinFailed(error: unknown): never {
  noMember()
  throw error
}

/** Returns the program that serves under this name, if it is not this one; null if none does, or it does not report its program. */
async function otherProgram({ control, program }: AutoSettings): Promise<string | null> {
  if (!existsSync(control)) return null
  try {
    using client = await OperatorClient.connect(control, { timeout: STATUS_MS })
    const answer = await client.status({ timeout: STATUS_MS })
    const { program: served } = 'details' in answer ? answer.details : { program: undefined }
    if (typeof served !== 'string') return `${control} (pid ${client.peerPid})`
    return served === program ? null : served
  } catch (error) {
    // No process listens any more: join() handles that.
    if (FdbError.is(error)) return null
    throw error
  }
}

/** Repeats a check until it passes. Prints each new reason why it fails. */
function untilHealthy(check: Check): Check {
  const repeated: Check = async ({ signal }) => {
    for (;;) {
      try {
        return (await check({ signal })) !== false
      } catch (error) {
        if (signal.aborted) throw error
        sayOnce(`this version does not serve yet: ${messageOf(error)}`)
      }
      await new Promise(resolve => setTimeout(resolve, RETRY_MS))
    }
  }
  return Object.defineProperty(repeated, 'name', { value: check.name })
}

type Close = (callback?: (error?: Error) => void) => net.Server

/** Servers whose close is watched. A program may close one and listen again. */
const callbacksOf = new WeakMap<net.Server, CloseCallbacks>()

interface CloseCallbacks {
  /** Whether the library has detached the server because another process serves. */
  isDetached(): boolean
  /** The server no longer accepts. */
  closed(): void
}

/** Reports when the program closes a server. If the library has detached the server, the close succeeds as on a listening one. */
function onServerClose(server: net.Server, closing: CloseCallbacks): void {
  const known = callbacksOf.has(server)
  callbacksOf.set(server, closing)
  if (known) return
  let emitted = false
  server.on('close', () => {
    emitted = true
  })
  server.on('listening', () => {
    emitted = false
  })
  const original = server.close as Close
  const close: Close = callback => {
    const now = callbacksOf.get(server) ?? closing
    const taken = now.isDetached()
    if (taken && callback !== undefined) {
      if (emitted) process.nextTick(callback)
      else server.once('close', () => callback())
    }
    Reflect.apply(original, server, taken || callback === undefined ? [] : [callback])
    now.closed()
    return server
  }
  Object.defineProperty(server, 'close', { configurable: true, writable: true, value: close })
}

type ListeningHandler = (...args: unknown[]) => void

/**
 * Sets the program's 'listening' handlers aside while another process serves: when this process serves again Node emits the event again,
 * which a program that starts work there does not expect.
 */
class ListeningOnce {
  readonly #aside = new Map<net.Server, readonly ListeningHandler[]>()

  setAside(servers: Iterable<net.Server>): void {
    for (const server of servers) {
      this.#aside.set(server, server.rawListeners('listening') as ListeningHandler[])
      server.removeAllListeners('listening')
    }
  }

  /** Restores the handlers after the servers listen again. */
  bringBack(): void {
    for (const [server, heard] of this.#aside) {
      const again = () => {
        for (const each of heard) server.on('listening', each)
      }
      // Node emits 'listening' in the turn in which the server listens.
      if (server.listening) setImmediate(again)
      else server.once('listening', () => setImmediate(again))
    }
    this.#aside.clear()
  }
}

/** Time for the program's SIGTERM handler to finish its work. */
const HANDLER_MS = 30_000
/** Limit for closing the member at a signal. */
const CLOSE_MS = 2_000

const SIGNALS = ['SIGINT', 'SIGTERM'] as const

/** Ends the program: at a signal while it serves, and after it has retired. */
class ProgramShutdown {
  readonly #member: Member
  readonly #exitMs: number
  readonly #placeholder: Placeholder
  #ending = false

  constructor(member: Member, exitMs: number, placeholder: Placeholder) {
    this.#member = member
    this.#exitMs = exitMs
    this.#placeholder = placeholder
    void member.retired.then(why => this.#onRetired(why))
  }

  /** Called when this process serves: a signal that ends it also ends the service. */
  handleSignals(): void {
    for (const signal of SIGNALS)
      if (!process.listeners(signal).includes(this.#onSignal)) process.prependListener(signal, this.#onSignal)
  }

  /** Leaves signals to the program. */
  stopHandlingSignals(): void {
    for (const signal of SIGNALS) process.off(signal, this.#onSignal)
  }

  /** Called when another process or none will serve: leaves this one to the program. */
  leave(): void {
    this.#ending = true
    this.stopHandlingSignals()
  }

  readonly #onSignal = (signal: NodeJS.Signals): void => {
    const own = process.listenerCount(signal) > 1
    // A predecessor on standby would serve again as soon as this process ends.
    if (own && this.#member.incumbent !== null) {
      this.#ending = true
      void this.#member.close({ handBack: false })
    }
    if (own) return
    this.leave()
    const limit = setTimeout(() => process.kill(process.pid, signal), CLOSE_MS)
    void this.#member.close({ handBack: false, timeout: 0 }).finally(() => {
      clearTimeout(limit)
      process.kill(process.pid, signal)
    })
  }

  /** Ends a retired program through its own SIGTERM handlers, which close its resources. */
  async #onRetired(why: RetiredReason): Promise<void> {
    this.stopHandlingSignals()
    await this.#placeholder.decided
    if (why !== 'replaced') this.#placeholder.stop()
    if (this.#ending || why === 'lost') {
      this.#placeholder.stopForwarding()
      return
    }
    this.#ending = true
    if (this.#placeholder.endProgram()) return
    setTimeout(() => {
      const kept = activeResources()
      const what = Object.keys(kept).length === 0 ? 'something' : keptByText(kept)
      say(
        `process ${process.pid} no longer serves and its last connection has ended, but ${what} keeps it alive: fd-broker ends it. A SIGTERM handler that closes timers and pools would end it sooner`,
      )
      process.exit()
    }, this.#exitMs).unref()
  }
}
