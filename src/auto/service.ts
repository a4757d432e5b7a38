import { existsSync } from 'node:fs'
import type net from 'node:net'
import {
  answers,
  type Check,
  FdbError,
  join,
  type Listener,
  type ListenerOptions,
  type Member,
  type ServeOptions,
} from '../index.js'
import { duplicateLent, listenOver } from '../kernel/index.js'
import { isListenedAt } from '../listeners/unix-path.js'
import {
  HELD_HANDLE,
  holdHandle,
  keepsAlive,
  listeningDescriptorOf,
  nameSocket,
} from '../node/held-handle.js'
import { isHttpsServer } from '../node/http-connections.js'
import { forgetAddress } from '../node/kept-address.js'
import { observe, setMethod } from '../node/observed-events.js'
import { startedAs, WITHOUT } from '../os/command-line.js'
import { shownAddress } from '../os/given-up.js'
import { realPathOf } from '../os/release-link.js'
import { AwaitedListeners } from './awaited-listeners.js'
import { isEndOfUpgrade } from './ended-upgrade.js'
import { PARENT } from './exclusion.js'
import { KeptProcess } from './kept-process.js'
import { limitedTogether } from './limited-checks.js'
import { addressesOf, addressNow, type ListenRequest, listenerName } from './listen-request.js'
import { ListeningEvents } from './listening-events.js'
import { linkedLog, linkLog, type OwnPart, openPart, ownPart } from './log-files.js'
import { openInspector } from './node-startup.js'
import { HANDLER_MS, ProgramShutdown } from './program-shutdown.js'
import { exclusionFromService } from './serving-version.js'
import type { AutoSettings } from './settings.js'
import { announceStart } from './starting.js'
import { autoLog, codeAndMessageOf, messageOf, print, printOnce } from './stderr.js'
import type { WaitingServer } from './waiting-server.js'

/** Delay before a failed health check is repeated. */
const CHECK_RETRY_MS = 100

/** The program as a member of its service: its servers are the member's listeners. */
export class AutoService {
  readonly #settings: AutoSettings
  readonly #member: Member
  readonly #keptProcess: KeptProcess
  readonly shutdown: ProgramShutdown
  /** Names of the listeners that the previous version offers. */
  readonly #offered: ReadonlySet<string>
  /** Names of the listeners that the servers have or get. */
  readonly #names = new Map<net.Server, string>()
  /** The last call of `listen()` of each server. */
  readonly #calls = new WeakMap<net.Server, symbol>()
  readonly #awaited: AwaitedListeners
  /** Listeners that have a server. */
  readonly #listeners = new Map<string, Listener>()
  /** The last attach by listener name. The next one waits for it, because a program may close a server and listen again at once. */
  readonly #attaching = new Map<string, Promise<void>>()
  /** Makes servers that the program has opened again, while another process serves, listeners of the member. */
  readonly #fenced = new Map<net.Server, () => void>()
  /** Adopted listeners whose server the program has closed before this process was ready: the previous version still serves their addresses. */
  readonly #unusedListeners = new Map<string, Listener>()
  readonly #listeningEvents = new ListeningEvents()
  #hasAdopted = false
  /** Calls {@link #leaveOther} if the program listens on other addresses only. */
  #quietTimer: NodeJS.Timeout | undefined
  #isReadying = false
  #resolveReadyCall: () => void = () => {}
  readonly #readyCall = new Promise<void>(resolve => {
    this.#resolveReadyCall = resolve
  })
  /** `readies`: listens on all addresses of the previous version, and waits to serve. */
  #phase: 'starts' | 'readies' | 'serves' | 'left' = 'starts'
  readonly #onLeft: () => void
  #leaving: Promise<void> | null = null
  #handsBack = false
  /** The log of `fd-broker start`; null if this process was not started by it. */
  readonly #log: OwnPart | null
  /** The log file of the version that served last before this process served again; null if there is none. */
  #failedLog: string | null = null

  /**
   * Joins the service. Returns null if this program is no version of it, and prints the reason if a user would expect that it is one. Calls `onLeft`
   * when this program has left the service and may join again. Rejects as `join()` does.
   */
  static async join(
    settings: AutoSettings,
    starters: ReadonlySet<number>,
    onLeft: () => void,
  ): Promise<AutoService | null> {
    const { control, service, drainMs, exitMs, readyMs, probationMs, pidFile, stateFile } = settings
    const exclusion = await exclusionFromService(settings, starters)
    if (exclusion !== null) {
      if (exclusion.notice !== null) print(exclusion.notice)
      return null
    }
    const member = await join({
      service,
      control,
      logger: autoLog(settings.log),
      systemd: 'auto',
      // Allows the program to end: KeptProcess keeps its process alive.
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
    return new AutoService(settings, member, onLeft)
  }

  /** See {@link announceStart}. */
  static readonly announceStart = announceStart
  /** See {@link isListenedAt}. */
  static readonly isListenedAt = isListenedAt

  private constructor(settings: AutoSettings, member: Member, onLeft: () => void) {
    this.#settings = settings
    this.#member = member
    this.#onLeft = onLeft
    this.#offered = new Set(member.known)
    const keptProcess = new KeptProcess(settings.control)
    this.#keptProcess = keptProcess
    this.shutdown = new ProgramShutdown(member, settings, keptProcess)
    const log = ownPart(startedAs.env)
    this.#log = log
    member.describe(() => this.#details)
    if (log !== null) member.outputOfSuccessors(() => openPart(log.log, startedAs.env))
    member.unreadySuccessors(() => this.#unreadyText)
    // The member does not keep the process alive, so that the program ends as without fd-broker.
    member.keepAlive(false)
    member.on('retiring', () => {
      member.keepAlive(true)
      // In this order, so that a signal that has just arrived is passed on, too: it goes to the newest watch.
      keptProcess.markReplaced()
      this.shutdown.stopHandlingSignals()
      this.#listeningEvents.mute(this.#names.keys())
    })
    member.on('reinstated', () => {
      if (log !== null) this.#takeLogBack(log)
      member.keepAlive(false)
      this.#listeningEvents.restore()
      this.shutdown.handleSignals()
      keptProcess.stop()
      for (const attach of this.#fenced.values()) attach()
      this.#fenced.clear()
    })
    this.#awaited = new AwaitedListeners({
      member,
      control: settings.control,
      without: settings.without,
      isUsed: name => this.#isUsed(name),
      listens: () => this.#names.size > 0,
      changed: missing => this.#reportMissing(missing),
    })
    member.successorsListen()
    // The variable is this version's own: not that of the processes that it starts.
    delete process.env[WITHOUT]
    this.#awaited.update()
    if (this.#offered.size > 0) openInspector()
  }

  /** Resolves when this program has left the service; null if it is not leaving. */
  get leaving(): Promise<void> | null {
    return this.#leaving
  }

  /** Resolves when this program has left the service to the version that stood by; null if it is not leaving, or if none stood by. */
  get handingBack(): Promise<void> | null {
    return this.#handsBack ? this.#leaving : null
  }

  /** See {@link Auto.adopts}. */
  get adopts(): boolean {
    if (this.#phase === 'left') return false
    return this.#member.mayReopen || (this.#offered.size > 0 && this.#member.unadopted.length > 0)
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
      let startAccepting: (() => void) | null = null
      const listen = () => listenOver(server, fd, backlog)
      if (HELD_HANDLE.works) startAccepting = holdHandle(server, listen)
      else listen()
      if (request.path !== undefined) nameSocket(server, request.path)
      if (signal?.aborted) process.nextTick(() => server.close())
      else signal?.addEventListener('abort', () => server.close(), { once: true })
      this.#hasAdopted = true
      // In the next turn, because a program calls unref() after listen().
      setImmediate(() => this.#keepAlive())
      const open = async () => this.#unusedListeners.get(name) ?? (await this.#member.listen(name, address))
      const accept = startAccepting ?? (() => {})
      const serve = (listener: Listener) => listener.serveListening(server, accept, this.#optionsFor(server))
      this.#attach(server, name, open, serve, error => {
        // If the member cannot open the listener, the server accepts without it. If another process serves, it accepts when this one serves again.
        if (!FdbError.is(error) || error.code !== 'ERR_FDB_FENCED') accept()
        else
          this.#fenced.set(server, () =>
            this.#attach(server, name, () => this.#reopen(server, name, address), serve, accept),
          )
      })
      return true
    }
    return false
  }

  #optionsFor(server: net.Server): ServeOptions {
    return this.#settings.tlsMoves && isHttpsServer(server) ? { tls: { move: 'on' } } : {}
  }

  /** Makes a server that already listens a listener of the member. */
  takeOver(waiting: WaitingServer, request: ListenRequest): void {
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
      waiting.take(() => listener.serveListening(server, () => {}, this.#optionsFor(server))),
    )
  }

  /** Makes the socket on which the server already listens a listener of the member. */
  async #reopen(server: net.Server, name: string, address: ListenerOptions): Promise<Listener> {
    const fd = duplicateLent(listeningDescriptorOf(server)!, name)
    return await this.#member.listenOn(name, address, fd)
  }

  get #details(): Record<string, unknown> {
    const { program, ready } = this.#settings
    return {
      program,
      ready: typeof ready === 'string' ? ready : ready.path,
      ...(this.#log !== null && { log: linkedLog(this.#log) }),
      ...(this.#failedLog !== null && { failedLog: this.#failedLog }),
    }
  }

  /** Points the log’s link to the file of this process, which serves again. */
  #takeLogBack(log: OwnPart): void {
    // The link leads to the file of the version that serves, or has served last.
    const before = realPathOf(log.log)
    this.#failedLog = before === realPathOf(log.part) ? null : before
    if (this.#failedLog !== null) print(`the log of the version that served before is ${this.#failedLog}`)
    linkLog(log, this.#member.generation, false)
  }

  /** Names the step that a next version may have missed if it has joined, is not ready and has not reported its step. */
  get #unreadyText(): string {
    const { ready } = this.#settings
    const text = `does not listen on ${[...this.#listeners.keys()].join(', ')}`
    if (ready === 'listen') return text
    return `${text}, or ${ready === 'call' ? 'has not called ready() of fd-broker/auto' : `GET ${ready.path} has not succeeded`}`
  }

  #isUsed(name: string): boolean {
    return [...this.#names.values()].includes(name)
  }

  #attach(
    server: net.Server,
    name: string,
    open: () => Promise<Listener>,
    serve: (listener: Listener) => void,
    failed: (error: unknown) => void = () => {},
  ): void {
    process.env[PARENT] = `${process.pid}`
    this.#names.set(server, name)
    const call = Symbol(name)
    this.#calls.set(server, call)
    const before = this.#attaching.get(name) ?? Promise.resolve()
    const attached = before
      .then(open)
      .then(listener => {
        if (this.#names.get(server) !== name || this.#calls.get(server) !== call) {
          this.#releaseListener(name, listener)
          return
        }
        this.#unusedListeners.delete(name)
        this.#listeners.set(name, listener)
        serve(listener)
      })
      .catch(error => {
        printOnce(`${name} will not be handed over to the next version: ${messageOf(error)}`)
        failed(error)
      })
    this.#attaching.set(name, attached)
    void attached.then(() => this.#awaited.update())
    onServerClose(server, {
      isDetached: () => this.#isDetached(server),
      closed: () => this.#onClosed(server),
    })
    this.#onListening()
  }

  /** Whether the library has detached the server, because another process serves. */
  #isDetached(server: net.Server): boolean {
    const { phase } = this.#member
    return this.#names.has(server) && !server.listening && phase !== 'joining' && phase !== 'ready'
  }

  #onClosed(server: net.Server): void {
    const name = this.#names.get(server)
    if (name === undefined) return
    this.#names.delete(server)
    this.#fenced.delete(server)
    // A process without a server does not take over. The program may still open another server.
    if (this.#names.size === 0 && this.#phase === 'starts') clearTimeout(this.#quietTimer)
    this.#keepAlive()
    const listener = this.#listeners.get(name)
    if (listener === undefined || this.#phase === 'left') return
    if (this.#phase === 'starts') listener.forget(server)
    this.#releaseListener(name, listener)
  }

  /** An adopted server whose handle is held does not keep the process alive by itself. */
  #keepAlive(): void {
    if (this.#phase !== 'starts') return
    this.#member.keepAlive(this.#hasAdopted && [...this.#names.keys()].some(keepsAlive))
  }

  /** Closes the member's listener after the program has closed its server; keeps an adopted one until this process is ready. */
  #releaseListener(name: string, listener: Listener): void {
    this.#listeners.delete(name)
    if (listener.adopted && this.#phase === 'starts') {
      this.#unusedListeners.set(name, listener)
      return
    }
    this.#member.unlisten(name)
    if (this.#names.size === 0 && this.#phase === 'serves') this.#leave()
  }

  /** Reports the addresses of the previous version on which this one does not listen yet. */
  #reportMissing(missing: readonly string[]): void {
    if (missing.length > 0) this.#member.reportStep(missingText(missing))
    else this.#member.reportStep('is not ready')
  }

  #onListening(): void {
    if (this.#phase !== 'starts') return
    clearTimeout(this.#quietTimer)
    this.#awaited.update()
    const isOther = !this.#hasAdopted && this.#awaited.missing.length > 0
    if (isOther && !this.#member.isStartedSuccessor)
      this.#quietTimer = setTimeout(() => this.#leaveOther(), this.#settings.quietMs)
    if (this.#isReadying) return
    this.#isReadying = true
    void this.#ready()
  }

  /** The user has started the program a second time, with other addresses. */
  #leaveOther(): void {
    const { service } = this.#settings
    const addresses = this.#awaited.missing.join(', ')
    print(
      `another process serves "${service}" on other addresses (${addresses}): this program is not its next version, and runs without upgrades; to run both, set FD_BROKER_NAME (with fd-broker start: --name) to give this one a service of its own; to move the service to the addresses of this one, set FD_BROKER_WITHOUT=${addresses.replaceAll(', ', ',')}`,
    )
    this.#leave(
      `the next version listens on none of the addresses of "${service}" (${addresses}); to give them up on purpose, set FD_BROKER_WITHOUT`,
    )
  }

  /** See {@link AutoSettings.ready}. */
  reportReady(): void {
    this.#resolveReadyCall()
  }

  async #ready(): Promise<void> {
    const { service, log } = this.#settings
    const unserved: string[] = []
    try {
      await this.#member.ready({ checks: this.#checks(unserved), unserved })
    } catch (error) {
      this.#onFailed(error)
      return
    }
    this.#phase = 'serves'
    if (this.#log !== null) linkLog(this.#log, this.#member.generation, true)
    this.#member.keepAlive(false)
    this.shutdown.handleSignals()
    if (log !== 'warn') print(`generation ${this.#member.generation} of "${service}" serves`)
    if (this.#names.size === 0) this.#leave()
  }

  /**
   * Returns the checks that pass when this version can serve. The last one adds to `unserved` the listeners that have no server: this version
   * has given them up, or the previous one has closed them. If the previous version opens another listener later, the upgrade fails.
   */
  #checks(unserved: string[]): Check[] {
    const { ready } = this.#settings
    const listens: Check = ({ signal }) => this.#awaited.complete(signal)
    const called: Check = async () => {
      this.#member.reportStep('has not called ready() of fd-broker/auto')
      await this.#readyCall
    }
    const last: Check = async ({ signal }) => {
      await this.#awaited.complete(signal)
      this.#phase = 'readies'
      this.#member.reportStep('is not ready')
      await Promise.all(this.#attaching.values())
      for (const [name, listener] of this.#unusedListeners) this.#releaseListener(name, listener)
      unserved.push(...this.#member.known)
    }
    const own = ready === 'listen' ? [] : [ready === 'call' ? called : this.#answers(ready.path)]
    const name = () => missingCheck(this.#awaited.missing) ?? howReady(ready)
    // The name is for the warning of a check that does not settle.
    const checks = [listens, ...own, last]
    const limited = this.#offered.size === 0 ? checks : limitedTogether(checks, this.#settings.readyMs)
    return limited.map(check => Object.defineProperty(check, 'name', { get: name }))
  }

  /** Returns a check that passes when each HTTP server of the program has answered, also one that listens meanwhile. */
  #answers(path: string): Check {
    const passed = new Set<net.Server>()
    return async ({ signal }) => {
      for (;;) {
        await this.#awaited.complete(signal)
        const [next] = [...this.#names].filter(([server]) => isHttp(server) && !passed.has(server))
        if (next === undefined) break
        const [server, name] = next
        const at = shownAddress({ name, address: this.#listeners.get(name)?.address.url ?? name })
        this.#member.reportStep(`has no answer to GET ${path} on ${at} yet`)
        await untilHealthy(answers(server, { path }), at, step => this.#member.reportStep(step))({ signal })
        passed.add(server)
      }
      if (passed.size === 0)
        printOnce(`FD_BROKER_READY=${path} asks HTTP/1 servers, and this program has none: nothing was asked`)
    }
  }

  #onFailed(error: unknown): void {
    if (this.#phase === 'left') return
    this.shutdown.leave()
    this.#phase = 'left'
    if (this.#offered.size === 0 && !isEndOfUpgrade(error)) {
      print(`this process runs without upgrades: ${codeAndMessageOf(error)}`)
      this.#onLeft()
      return
    }
    const { missing } = this.#awaited
    const why = missing.length === 0 ? '' : `; it ${missingText(missing)}`
    print(`this version does not serve: ${messageOf(error)}${why}`)
    process.exit(1)
  }

  /** Called when nothing keeps the process alive. Leaves the service if the program ends before it serves. */
  beforeExit(): void {
    if (this.#phase === 'starts') this.#leave()
  }

  /**
   * Called when the process exits, after the program's own handlers. A signal handler of the program may call process.exit() as soon as its
   * server has closed, before the member has closed.
   */
  exits(): void {
    this.#keptProcess.exits()
    this.#member.exits()
  }

  #leave(why?: string): void {
    if (this.#phase === 'left') return
    this.#phase = 'left'
    clearTimeout(this.#quietTimer)
    this.shutdown.leave()
    this.#member.keepAlive(true)
    this.#handsBack = this.#member.isStoodBy
    const closed = why === undefined ? this.#member.close() : this.#member.closeBecause(why)
    this.#leaving = closed.then(this.#onLeft, this.#onLeft)
  }
}

function missingText(missing: readonly string[]): string {
  const options = missing.map(
    address => `--without ${/^[\w.:/@-]+$/.test(address) ? address : `'${address}'`}`,
  )
  return `does not listen on ${missing.join(', ')}, as the version that serves does (to give that up: fd-broker upgrade ${options.join(' ')})`
}

function missingCheck(missing: readonly string[]): string | null {
  return missing.length === 0 ? null : `listens on ${missing.join(', ')}`
}

function howReady(ready: AutoSettings['ready']): string {
  if (ready === 'listen') return 'is ready'
  return ready === 'call' ? 'ready() of fd-broker/auto' : `answers ${ready.path}`
}

/** Only HTTP/1 servers have this property. */
function isHttp(server: net.Server): boolean {
  return 'maxHeadersCount' in server
}

/** Repeats the check of the server at this address until it passes. Prints each new reason why it fails, and passes each to `onFailed`. */
function untilHealthy(check: Check, at: string, onFailed: (step: string) => void): Check {
  const repeated: Check = async ({ signal }) => {
    for (;;) {
      try {
        return (await check({ signal })) !== false
      } catch (error) {
        if (signal.aborted) throw error
        const why = messageOf(error)
        const { reason = why } = FdbError.is(error) ? error.details : {}
        onFailed(`fails its check on ${at}: ${reason}`)
        printOnce(`this version does not serve yet: ${at}: ${why}`)
      }
      await new Promise(resolve => setTimeout(resolve, CHECK_RETRY_MS))
    }
  }
  return repeated
}

type Close = (callback?: (error?: Error) => void) => net.Server

/** Servers whose `close()` is replaced. A program may close a server and listen again. */
const callbacksOf = new WeakMap<net.Server, CloseCallbacks>()

interface CloseCallbacks {
  isDetached(): boolean
  /** Called when the server no longer accepts. */
  closed(): void
}

/** Replaces `server.close()`, to report it. On a detached server it succeeds as on a listening one; Node's own would report ERR_SERVER_NOT_RUNNING. */
function onServerClose(server: net.Server, closing: CloseCallbacks): void {
  const known = callbacksOf.has(server)
  callbacksOf.set(server, closing)
  if (known) return
  let emitted = false
  observe(server, {
    close: () => {
      emitted = true
    },
    listening: () => {
      emitted = false
    },
  })
  const original = server.close as Close
  const close: Close = callback => {
    const now = callbacksOf.get(server) ?? closing
    const detached = now.isDetached()
    if (detached && callback !== undefined) {
      if (emitted) process.nextTick(callback)
      else server.once('close', () => callback())
    }
    Reflect.apply(original, server, detached || callback === undefined ? [] : [callback])
    forgetAddress(server)
    now.closed()
    return server
  }
  setMethod(server, 'close', close)
}
