import { EventEmitter, errorMonitor } from 'node:events'
import {
  abortSignal,
  type Checks,
  checkOptions,
  didYouMean,
  hook,
  milliseconds,
  predicate,
  unchecked,
  wrongOption,
} from '../base/check-option.js'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { type OwnedFd, ownNumber } from '../kernel/index.js'
import { addressOf, type ListenerOptions, type OptionChange, parseListenerSpec } from '../listeners/index.js'
import type { CommandHandler, Upgraded } from '../operator/requests.js'
import type { StatusReport } from '../operator/status-report.js'
import type { StateDraft } from '../state/draft.js'
import type { StateFileStatus } from '../state/file/state-file.js'
import type { WriteOptions } from '../state/requests.js'
import type { SectionSchema } from '../state/schema.js'
import type { Section } from '../state/section.js'
import type { MemberDriver } from './driver.js'
import type { StartWork } from './leadership.js'
import { type Listener, startListeners } from './listener.js'
import type { CloseOptions, ReadyOptions, RetiredReason, UpgradeOptions } from './member-options.js'
import { checkName, OwnListeners } from './own-listeners.js'
import type { MemberRuntime } from './runtime.js'
import { incumbentOf } from './status.js'
import { type StayOptions, stay, staysForOthers } from './stay.js'
import type { SuccessorOutput } from './upgrades.js'

export interface MemberEvents {
  /** @internal This process has the right to serve and to write, for the first time. */
  serving: []
  /** Another serves now; this process stands by. Connections go on. */
  retiring: []
  /** @internal The successor failed, and this process serves again. */
  reinstated: []
  /** @internal The upgrade failed when the work of {@link Member.whileServing} had been stopped already: this process serves on, and starts it again. */
  resumed: []
  /** The last connection has ended (or was cut). */
  retired: [RetiredReason]
  /** An adopted listener's options differ from what this version asks for. */
  listenerChanged: [name: string, changes: readonly OptionChange[]]
  /** The state file could not be written (`ok` is false: the state is in memory alone), or is whole again. */
  stateFile: [StateFileStatus]
  /** A server could not be attached to its listener. */
  listenerError: [error: unknown]
  /**
   * This process was to serve and cannot write (the reason is in ERR_FDB_UNFIT: it may not read the successor's records, for example).
   * While no other process serves it answers from what it has read; the next version starts with every acknowledged change.
   */
  unfit: [error: FdbError]
}

const EVENTS: Record<keyof MemberEvents, true> = {
  serving: true,
  retiring: true,
  reinstated: true,
  resumed: true,
  retired: true,
  listenerChanged: true,
  stateFile: true,
  listenerError: true,
  unfit: true,
}
const READY: Checks<ReadyOptions> = {
  checks: predicate(
    'a list of functions',
    value => Array.isArray(value) && value.every(check => typeof check === 'function'),
  ),
  timeout: milliseconds(1),
  unserved: predicate(
    'true, or a list of names of listeners',
    value =>
      typeof value === 'boolean' || (Array.isArray(value) && value.every(name => typeof name === 'string')),
  ),
}
const UPGRADE: Checks<UpgradeOptions> = {
  argv: unchecked,
  env: unchecked,
  signal: abortSignal,
  timeout: milliseconds(1),
  progress: hook(),
}
const CLOSE: Checks<CloseOptions> = { timeout: milliseconds(0), handBack: unchecked }
const STAY: Checks<StayOptions> = { signals: unchecked, until: unchecked }

let make: (driver: MemberDriver) => Member

/** The application's side of a driver. */
export function memberOf(driver: MemberDriver): Member {
  return make(driver)
}

/** A process's place in a service. Made by {@link join}. */
export class Member extends EventEmitter<MemberEvents> implements AsyncDisposable {
  readonly #driver: MemberDriver
  readonly #runtime: MemberRuntime
  readonly #listeners: OwnListeners
  readonly #told: GuardedListeners
  #details: () => Record<string, unknown> = () => ({})

  private constructor(driver: MemberDriver) {
    super()
    const { runtime } = driver
    this.#driver = driver
    this.#runtime = runtime
    this.#told = new GuardedListeners(this, runtime.settings.logger)
    this.#listeners = new OwnListeners({
      shared: runtime,
      holdings: runtime.holdings,
      refuseLeft: () => driver.refuseLeft(),
      changed: (name, changes) => this.#emit('listenerChanged', name, changes),
      failed: error => this.#emit('listenerError', error),
    })
    driver.bind({
      listeners: () => this.#listeners.all,
      failures: () => this.#told.failures,
      details: () => this.#details(),
      serving: () => this.#emit('serving'),
      retiring: () => this.#emit('retiring'),
      reinstated: () => this.#emit('reinstated'),
      unfit: error => this.#emit('unfit', error),
      resumed: () => this.#emit('resumed'),
      failed: error => this.#told.failed('whileServing', error),
      retired: why => this.#emit('retired', why),
      stateFile: status => this.#emit('stateFile', status),
    })
    const known = Object.keys(EVENTS)
    super.on('newListener' as never, ((event: string | symbol) => checkEvent(event, known)) as never)
  }

  static {
    make = driver => new Member(driver)
  }

  get service(): string {
    return this.#runtime.settings.service
  }

  /**
   * The service whose state this member has, by the option `follow` of {@link join}; null: its own. Work to be done once for a state
   * (reading a configuration into it, making keys) is done where it is null.
   */
  get follows(): string | null {
    return this.#runtime.settings.follow
  }

  /** Counts the versions of this service that came to serve: 1 for the first. */
  get generation(): number {
    return this.#runtime.generation
  }

  /** This is the first process of the service: the state is empty, or that of the state file. Never if it {@link follows} another. */
  get first(): boolean {
    return this.follows === null && this.#driver.first
  }

  get phase(): string {
    return this.#driver.phase
  }

  /** @internal As in {@link status}, which costs more. */
  get incumbent(): number | null {
    return incumbentOf(this.#runtime)
  }

  /**
   * A section of the state, filled from the incumbent. Values of `schema`'s codec; without a schema bytes. Changes
   * made before {@link ready} by a process that is not the first wait until the commit: do not await them before.
   * Throws ERR_FDB_SCHEMA, and ends the handoff, when this version may not read what is there.
   */
  section(name: string): Section<Uint8Array>
  section<T>(name: string, schema: SectionSchema<T>): Section<T>
  section<T>(name: string, schema?: SectionSchema<T>): Section<T> | Section<Uint8Array> {
    try {
      return schema === undefined
        ? this.#runtime.view.section(name)
        : this.#runtime.view.section(name, schema)
    } catch (error) {
      if (FdbError.is(error) && error.code === 'ERR_FDB_SCHEMA') this.#driver.refuse(error)
      throw error
    }
  }

  /**
   * Changes entries of several sections by what they are, in one change: `change` is called when it is its turn, as that of
   * {@link Section.update}, and must not wait. Resolves, once it is in the log, with what it returned; undefined also where a
   * change with this `request` id was made before. Rejects as `put` does, and with what `change` throws, without effect.
   */
  update<R>(change: (state: StateDraft) => R, options: WriteOptions = {}): Promise<R | undefined> {
    return this.#runtime.view.update(change, options)
  }

  /**
   * Resolves when every change that was acknowledged is in the state file, and on the disk. Rejects with ERR_FDB_STATE_FILE when
   * that cannot be done now (it is tried again), ERR_FDB_FENCED when another process serves. Without a `stateFile` it does nothing.
   */
  async flushState(): Promise<void> {
    await this.#runtime.state.file?.flush()
  }

  /**
   * The listener of this name: adopted from the version before when it listens at the same address, else bound now (so that a port in use
   * is known before the handoff). Without a name it is named after its address, `tcp://0.0.0.0:8080`. Adopted listeners that are not asked
   * for until {@link ready} are closed after the commit.
   *
   * Throws ERR_FDB_SPEC, ERR_FDB_LISTENER_TWICE, ERR_FDB_CLOSED (this member has left), and ERR_FDB_ADDRESS_IN_USE, which names the process
   * that has the address.
   */
  listen(where: string | ListenerOptions): Promise<Listener>
  listen(name: string, where: string | ListenerOptions): Promise<Listener>
  async listen(nameOrWhere: string | ListenerOptions, where?: string | ListenerOptions): Promise<Listener> {
    const spec = parseListenerSpec(where ?? nameOrWhere)
    return await this.#listeners.listen(where === undefined ? addressOf(spec) : (nameOrWhere as string), spec)
  }

  /** @internal As {@link listen}, of a socket that this process has bound itself. Takes the descriptor. */
  async listenOn(name: string, where: ListenerOptions, fd: OwnedFd): Promise<Listener> {
    return await this.#listeners.listen(name, parseListenerSpec(where), fd)
  }

  /** @internal A dup of the socket that {@link listen} would adopt, or has adopted under that name; null: it would bind the address. */
  offered(name: string, where: ListenerOptions): OwnedFd | null {
    return this.#listeners.offered(name, parseListenerSpec(where))
  }

  /** @internal The names of the listeners that the service has, those of the version before included. */
  get known(): readonly string[] {
    return [...this.#runtime.registry.entries].flatMap(({ name, role }) =>
      role === 'listener' ? [name] : [],
    )
  }

  /** @internal */
  get hasServed(): boolean {
    return this.#runtime.readiness.served
  }

  /** @internal Opens the output of each successor that this process starts, in place of its own. */
  outputOfSuccessors(open: () => SuccessorOutput): void {
    this.#runtime.upgrades.output = open
  }

  /** @internal Whether its place in the service keeps the process alive (it does at first). */
  keepAlive(on: boolean): void {
    this.#runtime.controlSocket.keepAlive(on)
    this.#runtime.joined.keepAlive(on)
    this.#runtime.readiness.keepAlive(on)
  }

  /**
   * The listener of this name is to listen elsewhere, or to be there now if it was not: while this process serves, for
   * a configuration that was read anew. At the same address it is the listener that there is. Otherwise the new address
   * is bound first (when that fails nothing has changed), then the old one is closed as by {@link unlisten}.
   */
  async relisten(name: string, where: string | ListenerOptions): Promise<Listener> {
    return await this.#listeners.relisten(name, parseListenerSpec(where))
  }

  /**
   * Closes a listener while this process serves: no more is accepted, and its address is free once no older
   * generation stands by with it. Its connections are told to go, and go on until they end or the process does.
   */
  unlisten(name: string): void {
    this.#listeners.unlisten(name)
  }

  /**
   * Gives a descriptor of any kind (a file, a pipe, a connected socket, memory) to the service under a name: it
   * crosses upgrades like a listener. Takes ownership, of a number too (from `fs.openSync`, not of one that a stream or
   * a server of Node still uses): do not close it afterwards. An earlier one of that name is closed. A member that has
   * left takes nothing (ERR_FDB_CLOSED): it is the caller's still. While a successor starts it crosses to that too; while the handoff commits the
   * call waits, and rejects (ERR_FDB_FENCED, the descriptor is closed) where another process serves then, as it does in a version that stands by.
   */
  async hold(name: string, fd: OwnedFd | number): Promise<void> {
    this.#driver.refuseLeft()
    checkName(name)
    const owned = typeof fd === 'number' ? ownNumber(fd, name) : fd
    await this.#runtime.holdings.register({ name, role: 'named', spec: '', fd: owned })
  }

  /** A dup of the named descriptor, which the caller owns; undefined when the service holds none of that name. */
  held(name: string): OwnedFd | undefined {
    const entry = this.#runtime.registry.get(name)
    if (entry === undefined) return undefined
    this.#runtime.wanted.add(name)
    return entry.fd.dup()
  }

  /**
   * Answers a command of operators while the service runs (`OperatorClient.command`, `fd-broker routes`): over the control socket, through
   * a daemon too. Only the process that serves is asked; the user of the process and root may ask. Body and reply have at most 15 MiB. A
   * handler that changes the state should await it, and may be called again while it runs. Throws ERR_FDB_OPTION for an invalid name, or
   * one that is taken.
   */
  command(name: string, handler: CommandHandler): this {
    this.#runtime.commands.set(name, handler)
    return this
  }

  /**
   * Takes over: resolves when this process serves. Until then the incumbent does; when this rejects the incumbent still does, and this
   * process holds nothing any more and should end.
   *
   * Rejects with the error of a check (ERR_FDB_CHECK), ERR_FDB_UNSERVED (a listener would be without a server), ERR_FDB_DEADLINE,
   * ERR_FDB_ABORTED and its kind from the incumbent, ERR_FDB_SCHEMA.
   */
  async ready(options: ReadyOptions = {}): Promise<void> {
    checkOptions('ready()', options, READY)
    for (const name of this.#listeners.names) this.#runtime.wanted.add(name)
    await this.#driver.ready(options)
  }

  /**
   * Runs work in one process only: cron jobs, queue consumers, watchers. `start` is called when this process serves and may write (at once if
   * it does already), and again when it does so again: after a failed upgrade, or when it is reinstated. It returns the function that stops the
   * work, which is awaited before another process may serve, and before this one leaves.
   *
   * A stop may change the state. All stops run at the same time, for at most `upgrade.quiesce` milliseconds: then their `signal` aborts, and
   * the handoff goes on. An exception of `start` or a stop is logged and counted; work whose `start` threw is started again the next time.
   */
  whileServing(start: StartWork): this {
    if (typeof start !== 'function') throw wrongOption('start', start, 'a function')
    this.#runtime.leadership.add(start)
    return this
  }

  /**
   * Accepts no more until {@link resume}, or until this process comes to serve again: who connects waits in the kernel's queue.
   * Connections go on. The next version accepts as ever.
   */
  pause(): void {
    for (const listener of this.#listeners.all) listener.pause()
  }

  /** Behind {@link pause}. Nothing where this process does not serve. Rejects when a server cannot be attached. */
  async resume(): Promise<void> {
    if (this.#runtime.machine.member.accepting) await startListeners(this.#listeners.all)
  }

  /**
   * Handles `fd-broker reload`: reads the configuration again, for example. A service manager is told that it is under way. Throws
   * ERR_FDB_OPTION when there is a hook already.
   */
  onReload(hook: () => unknown): this {
    this.#runtime.reloading.set(hook)
    return this
  }

  /** Does it, one at a time; rejects with what the hook throws, and with ERR_FDB_COMMAND_UNKNOWN where there is none. */
  async reload(): Promise<void> {
    await this.#runtime.reloading.run()
  }

  /** Resolves when this process does not serve any more and its last connection has ended: now close the database. */
  get retired(): Promise<RetiredReason> {
    return this.#runtime.shutdown.retired
  }

  /**
   * Starts this process's own successor (same command, path as given, start folder, unless `argv` says otherwise) and
   * resolves when it serves. Rejects, and this process serves on, with ERR_FDB_NO_BINARY, ERR_FDB_SPAWN,
   * ERR_FDB_SUCCESSOR_EXITED, ERR_FDB_BUSY, or why the handoff failed.
   *
   * When `signal` aborts (ERR_FDB_ABORTED) or `timeout` is over (ERR_FDB_DEADLINE) before the Commit, the successor is ended: its
   * process group gets SIGTERM, after 2 s SIGKILL; then it rejects. After the Commit it is too late: the outcome says who serves.
   */
  async upgrade(options: UpgradeOptions = {}): Promise<Upgraded> {
    checkOptions('upgrade()', options, UPGRADE)
    return await this.#driver.upgrade(options)
  }

  /**
   * Leaves. Without a successor the service ends: the listeners are closed. Resolves when the last connection has ended, or was closed
   * after `timeout` milliseconds (default: `drain.timeout`). Idempotent.
   */
  async close(options: CloseOptions = {}): Promise<void> {
    checkOptions('close()', options, CLOSE)
    await this.#driver.close(options)
  }

  /** @internal Does not serve (any more), and does not end before those that would end with it: see {@link stay}. */
  get staysForOthers(): boolean {
    return staysForOthers(this.#runtime)
  }

  /**
   * Waits as long as processes live that would end with this one (see `mainProcess` of {@link join}), and resolves with the exit code for
   * it: that of the one that served last, 128 and the number of the signal that ended it. When this process has stopped serving, it passes
   * `signals` on to the process that serves, and adopts and reaps processes without a parent. With `until` it stays as long as another
   * container's process serves, too. Elsewhere, or without `mainProcess: 'stays'`, it resolves with 0 when {@link retired} does. Call it
   * once, at any time; the signal handlers of a process that serves are its own matter.
   */
  async stay(options: StayOptions = {}): Promise<number> {
    checkOptions('stay()', options, STAY)
    return await stay(this.#runtime, options)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Adds what the application says of itself to {@link status}, as its `details`: asked for each status, and sent as JSON. */
  describe(details: () => Record<string, unknown>): this {
    if (typeof details !== 'function') throw wrongOption('details', details, 'a function')
    this.#details = details
    return this
  }

  /** Returns the report of `fd-broker status`. */
  status(): StatusReport {
    return this.#driver.status()
  }

  /** An exception of an application's listener is logged and counted, and undoes nothing. */
  #emit<E extends keyof MemberEvents>(event: E, ...args: MemberEvents[E]): void {
    this.#told.call(event, args)
  }
}

/** Events of EventEmitter itself; `events.once()` listens to `error` too. */
const OWN: ReadonlySet<string | symbol> = new Set(['error', errorMonitor, 'newListener', 'removeListener'])

/** Throws ERR_FDB_EVENT for an event that never comes: one that is misspelt would be waited for in vain. */
function checkEvent(event: string | symbol, known: readonly string[]): void {
  if (OWN.has(event) || (typeof event === 'string' && known.includes(event))) return
  const hint = typeof event === 'string' ? didYouMean(event, known) : ''
  throw new FdbError(
    'ERR_FDB_EVENT',
    `a member has no event "${String(event)}"${hint}: it has ${known.join(', ')}`,
    { details: { event: String(event) } },
  )
}

/** Calls all of the application's listeners: an exception or rejection of one is logged and counted, and undoes nothing. */
class GuardedListeners {
  readonly #emitter: NodeJS.EventEmitter
  readonly #logger: Logger
  /** Exceptions so far. */
  failures = 0

  constructor(emitter: NodeJS.EventEmitter, logger: Logger) {
    this.#emitter = emitter
    this.#logger = logger
  }

  call(event: string, args: readonly unknown[]): void {
    // With their wrappers: one that wants to hear it once takes itself off.
    for (const listener of this.#emitter.rawListeners(event)) {
      try {
        const outcome: unknown = Reflect.apply(listener, this.#emitter, args)
        if (outcome instanceof Promise) outcome.catch(error => this.failed(event, error))
      } catch (error) {
        this.failed(event, error)
      }
    }
  }

  failed(event: string, error: unknown): void {
    this.failures++
    this.#logger.error({ err: error, event }, `a listener or hook of the application for "${event}" threw`)
  }
}
