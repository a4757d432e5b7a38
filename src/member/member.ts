import { EventEmitter, errorMonitor } from 'node:events'
import { reportServerStage } from '../base/server-stage.js'
import { abortSignal, checkOptions, hook } from '../checks/options.js'
import { wrongOption } from '../checks/place.js'
import { absent, map, type ShapeOf } from '../checks/shape.js'
import { didYouMean } from '../checks/spelling.js'
import { boolean, commandLine, isTexts, list, milliseconds, predicate } from '../checks/values.js'
import { FdbError } from '../errors.js'
import type { ServiceEvent } from '../events/events.js'
import { namedEntry } from '../holder/entry.js'
import { inspectOne, isOpenDescriptor, isPassable, type OwnedFd, takeDescriptor } from '../kernel/index.js'
import { addressOf, type ListenerOptions, listenerAddress, parseListenerSpec } from '../listeners/index.js'
import type { CommandHandler, Upgraded } from '../operator/requests.js'
import type { StatusReport } from '../operator/status-report.js'
import { outOfDescriptors } from '../os/limits.js'
import type { StateDraft } from '../state/draft.js'
import type { WriteOptions } from '../state/requests.js'
import type { SectionSchema } from '../state/schema.js'
import type { Section } from '../state/section.js'
import { isStartedSuccessor, writeStep } from '../versions/exit-reason.js'
import type { MemberDriver } from './driver.js'
import { GuardedListeners } from './guarded-listeners.js'
import type { StartWork } from './lifecycle/leadership.js'
import type { Listener } from './listeners/listener.js'
import { checkName, type OwnListeners } from './listeners/own-listeners.js'
import type { MemberMetrics } from './operator/member-metrics.js'
import { isHandled, type StayOptions, stay, staysForOthers } from './operator/stay.js'
import type { SuccessorOutput } from './operator/upgrades.js'
import type {
  Check,
  CloseOptions,
  MemberEvents,
  ReadyOptions,
  RetiredReason,
  UpgradeOptions,
} from './options/member-options.js'
import type { MemberRuntime } from './runtime.js'
import { gaugesOf, incumbentOf } from './status.js'

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
const READY = map({
  checks: absent(
    predicate<readonly Check[]>(
      'a list of functions',
      value => Array.isArray(value) && value.every(check => typeof check === 'function'),
    ),
  ),
  timeout: absent(milliseconds(1)),
  skipInvalid: absent(boolean),
  unserved: absent(
    predicate<boolean | readonly string[]>(
      'true, or a list of names of listeners',
      value => typeof value === 'boolean' || isTexts(value),
    ),
  ),
} satisfies ShapeOf<ReadyOptions>)
export const UPGRADE = map({
  // An empty list stands for the command of this process.
  argv: absent(commandLine),
  env: absent(
    predicate<NodeJS.ProcessEnv>(
      'an object of variables',
      value => typeof value === 'object' && value !== null,
    ),
  ),
  signal: absent(abortSignal),
  timeout: absent(milliseconds(1)),
  progress: absent(hook<NonNullable<UpgradeOptions['progress']>>()),
} satisfies ShapeOf<UpgradeOptions>)
const CLOSE = map({
  timeout: absent(milliseconds(0)),
  handBack: absent(boolean),
} satisfies ShapeOf<CloseOptions>)
const EVENTS_OPTIONS = map({
  from: absent(
    predicate<number>(
      'a whole number, at least 1',
      value => Number.isSafeInteger(value) && (value as number) >= 1,
    ),
  ),
  signal: absent(abortSignal),
} satisfies ShapeOf<EventsOptions>)
const STAY = map({
  signals: absent(
    list(
      predicate<NodeJS.Signals>(
        'the name of a signal that a process can handle, such as "SIGTERM"',
        isHandled,
      ),
    ),
  ),
  until: absent(abortSignal),
} satisfies ShapeOf<StayOptions>)

let make: (driver: MemberDriver) => Member

/** Makes the {@link Member} of a driver, whose constructor is private. */
export function memberOf(driver: MemberDriver): Member {
  return make(driver)
}

export interface EventsOptions {
  /** The number of the first event. Default: the next one that happens. */
  from?: number | undefined
  signal?: AbortSignal | undefined
}

/** @internal */
export interface UnadoptedListener {
  readonly name: string
  /** The address to which the socket is bound. */
  readonly address: string
  readonly inode: string
}

/** This process as a part of a service. Made by {@link join}. */
export class Member extends EventEmitter<MemberEvents> implements AsyncDisposable {
  readonly #driver: MemberDriver
  readonly #runtime: MemberRuntime
  readonly #listeners: OwnListeners
  readonly #guarded: GuardedListeners
  #details: () => Record<string, unknown> = () => ({})

  private constructor(driver: MemberDriver) {
    super()
    const { runtime } = driver
    this.#driver = driver
    this.#runtime = runtime
    this.#guarded = new GuardedListeners(this, runtime.settings.logger)
    this.#listeners = runtime.listeners
    driver.bind({
      failures: () => this.#guarded.failures,
      details: () => this.#details(),
      emit: (event, ...args) => this.#emit(event, ...args),
      failed: error => this.#guarded.failed('whileServing', error),
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
   * The service whose state this member follows (option `follow` of {@link join}), or null if the member has its own. Do work that is
   * needed once for a state (reading a configuration into it, making keys) only where this is null.
   */
  get follows(): string | null {
    return this.#runtime.settings.follow
  }

  /** The number of versions of this service that have served, including this one: 1 for the first. */
  get generation(): number {
    return this.#runtime.origin.generation
  }

  /** Whether this is the first process of the service: its state is empty or comes from the state file. Always false with {@link follows}. */
  get first(): boolean {
    return this.follows === null && this.#driver.first
  }

  get phase(): string {
    return this.#driver.phase
  }

  /**
   * @internal Where the processes of this service, also its other workers, can share a file: a path that begins with the control path, and the
   * service's name. Null without a control socket.
   */
  get commonPlace(): { control: string; service: string } | null {
    const { control, service, worker } = this.#runtime.settings
    return control === null ? null : { control, service: worker?.service ?? service }
  }

  /**
   * Returns the events of the service from the number `from` (default: the next one that happens), as they happen. Ends when `signal` aborts, or when
   * this process has left the service. Events that are not kept any more are missing from the numbers: a service keeps the last 1,000.
   */
  events(options: EventsOptions = {}): AsyncGenerator<ServiceEvent, void, undefined> {
    const { from, signal } = checkOptions('events()', options, EVENTS_OPTIONS)
    return this.#runtime.events.follow(from ?? this.#runtime.events.next, signal)
  }

  /** @internal The field `incumbent` of {@link status}, without the cost of the whole status. */
  get incumbent(): number | null {
    return incumbentOf(this.#runtime)
  }

  /**
   * Returns a section of the state, with the incumbent's entries. `schema` decodes the values; without a schema they are bytes. Changes made
   * before {@link ready} wait until the commit, except in the first process of a service: await them only after {@link ready}. Throws
   * ERR_FDB_SCHEMA, and ends the handoff, if this version cannot read the section.
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
   * Changes entries of several sections atomically, depending on their present values. `change` is called when all earlier changes are
   * made, like the function of {@link Section.update}, and must be synchronous. Resolves with the result of `change` when the change is in
   * the log, or with undefined if a change with the same `request` id was made before. Rejects as `put` does, and
   * with the error that `change` throws; then nothing has changed.
   */
  update<R>(change: (state: StateDraft) => R, options: WriteOptions = {}): Promise<R | undefined> {
    return this.#runtime.view.update(change, options)
  }

  /**
   * Resolves when every acknowledged change is in the state file and written to disk. Rejects with ERR_FDB_STATE_FILE if that fails (the
   * library retries), and with ERR_FDB_FENCED if another process serves. Does nothing without the option `stateFile`.
   */
  async flushState(): Promise<void> {
    await this.#runtime.state.flush()
  }

  /**
   * Opens a listener: adopts it if the previous version listens at the same address, else binds it now, so that a port in use is noticed
   * before the handoff. Without a name the listener is named after its address, `tcp://0.0.0.0:8080`. Listeners of the previous
   * version that were not asked for before {@link ready} are closed after the commit.
   *
   * Throws ERR_FDB_SPEC, ERR_FDB_LISTENER_TWICE (also if this version has a descriptor of that name), ERR_FDB_CLOSED (this member has left), and ERR_FDB_ADDRESS_IN_USE, which names the process
   * that uses the address.
   */
  listen(where: string | ListenerOptions): Promise<Listener>
  listen(name: string, where: string | ListenerOptions): Promise<Listener>
  async listen(nameOrWhere: string | ListenerOptions, where?: string | ListenerOptions): Promise<Listener> {
    const spec = parseListenerSpec(where ?? nameOrWhere)
    return await this.#listeners.listen(where === undefined ? addressOf(spec) : (nameOrWhere as string), spec)
  }

  /** @internal Like {@link listen}, but uses `fd`, which this process has bound itself. Owns the descriptor. */
  async listenOn(name: string, where: ListenerOptions, fd: OwnedFd): Promise<Listener> {
    return await this.#listeners.listen(name, parseListenerSpec(where), fd)
  }

  /** @internal Returns a dup of the socket that {@link listen} would adopt or has adopted under that name, or null if {@link listen} would bind one. */
  offered(name: string, where: ListenerOptions): OwnedFd | null {
    return this.#listeners.offered(name, parseListenerSpec(where))
  }

  /** @internal Whether {@link listen} may get the socket of a listener that this version has closed. */
  get mayReopen(): boolean {
    return this.#listeners.mayReopen
  }

  /** @internal The names of the service's listeners, including those of the previous version. */
  get known(): readonly string[] {
    return [...this.#runtime.registry.entries].flatMap(({ name, role }) =>
      role === 'listener' ? [name] : [],
    )
  }

  /** @internal The listeners of the previous version that this version has not adopted, or for which it has no server any more. */
  get unadopted(): readonly UnadoptedListener[] {
    const { registry } = this.#runtime
    // The program has closed the server of an adopted listener again.
    const closed = this.#listeners.all
      .filter(({ adopted, hasServer }) => adopted && !hasServer)
      .flatMap(({ name }) => registry.listeners.find(entry => entry.name === name) ?? [])
    return [...this.#listeners.unused, ...closed].map(({ name, fd, spec }) => {
      const identity = inspectOne(fd)
      return { name, address: listenerAddress(identity, spec), inode: identity.ino }
    })
  }

  /** @internal Whether an upgrade has started this process, so that it must become the next version. */
  get isStartedSuccessor(): boolean {
    return isStartedSuccessor
  }

  /** @internal From now on an operator may name listeners of this process on which its next version does not listen. */
  successorsListen(): void {
    this.#runtime.upgrades.required = () => this.status().listeners
  }

  /** @internal */
  get hasServed(): boolean {
    return this.#runtime.readiness.served
  }

  /** @internal Sets the function that opens the output of each successor that this process starts. */
  outputOfSuccessors(open: () => SuccessorOutput): void {
    this.#runtime.upgrades.output = open
  }

  /** @internal Sets the function that names the step that a successor has missed if it has joined and is not ready. */
  unreadySuccessors(unready: () => string): void {
    this.#runtime.upgrades.unready = unready
  }

  /** @internal How this process drains when another one serves. */
  get draining(): Pick<MemberRuntime['connections'], 'onLastCall' | 'stayWhile'> {
    return this.#runtime.connections
  }

  /** @internal Reports the step that this process must complete before it serves, for the error of its incumbent. */
  reportStep(step: string): void {
    writeStep(step)
  }

  /** @internal Closes this member before it serves. The incumbent reports `why`. */
  async closeBecause(why: string): Promise<void> {
    await this.#driver.close({}, why)
  }

  /** @internal Whether a previous version would accept again if this process ended, even if it could not write. */
  get isStoodBy(): boolean {
    const { standsBy, unfitStandby } = this.#runtime.hosting
    return standsBy || unfitStandby !== null
  }

  /** @internal Whether an upgrade that this process has started is under way. */
  get isUpgraded(): boolean {
    return this.#runtime.upgrades.underWay
  }

  /** @internal Resolves when no upgrade that this process has started is under way, at the latest after `ms`. */
  async upgradeOver(ms: number): Promise<void> {
    const { machine, upgrades } = this.#runtime
    await machine.changes.until(() => !upgrades.underWay, ms)
  }

  /** @internal Waits while a handoff is under way, at most `drain.timeout`. Resolves with whether another process serves then. */
  async handedOver(): Promise<boolean> {
    return await this.#driver.handedOver()
  }

  /** @internal Sets whether the membership keeps the process alive. Default true. */
  keepAlive(on: boolean): void {
    this.#runtime.controlSocket.keepAlive(on)
    this.#runtime.joined.keepAlive(on)
    this.#runtime.readiness.keepAlive(on)
  }

  /**
   * Moves the listener of this name to another address while this process serves, for example after a reload of the configuration. Opens the
   * listener if there is none, and returns the present one if its address is the same. Binds the new address before it closes the old
   * listener like {@link unlisten}, so that nothing has changed if binding fails.
   * Call {@link Listener.serve} of the returned listener: until then clients of the new address wait.
   */
  async relisten(name: string, where: string | ListenerOptions): Promise<Listener> {
    return await this.#listeners.relisten(name, parseListenerSpec(where))
  }

  /**
   * Closes a listener while this process serves. Other processes can bind the address as soon as no standby or successor has the socket. The
   * end is announced to the clients; their connections stay open until they end or the process ends.
   */
  unlisten(name: string): void {
    this.#listeners.unlisten(name)
  }

  /**
   * Gives a descriptor of any kind (a file, a pipe, a connected socket, memory) to the service under a name. The next versions get it like
   * a listener. Owns `fd`, which may be a number from `fs.openSync`, but not one that a stream or server of Node uses: do not close it
   * afterwards. The service keeps a duplicate of a number, so that nothing is lost if the program closes it nevertheless. Closes an earlier
   * descriptor of that name.
   *
   * A successor that is starting gets the descriptor too, and after a rollback the previous version. While a handoff commits, the call waits. Rejects with ERR_FDB_FENCED, and closes
   * the descriptor, if another process serves. Rejects with ERR_FDB_CLOSED if this member has left, and with ERR_FDB_LISTENER_TWICE if a listener
   * has the name, or ERR_FDB_OPTION for io_uring, which the kernel passes to no process; then the caller still owns the descriptor.
   */
  async hold(name: string, fd: OwnedFd | number): Promise<void> {
    this.#driver.throwIfLeft()
    checkName(name)
    if (!isOpenDescriptor(fd)) throw wrongOption('fd', fd, 'the number of an open descriptor, or an OwnedFd')
    if (!isPassable(fd))
      throw wrongOption('fd', fd, 'a descriptor that other processes can get: the kernel passes no io_uring')
    await this.#listeners.name(name, () =>
      this.#runtime.holdings.register(namedEntry(name, takeDescriptor(fd, name))),
    )
  }

  /** Returns a dup of the named descriptor, or undefined if the service has none of that name. The caller owns the dup. Throws ERR_FDB_NO_DESCRIPTORS. */
  held(name: string): OwnedFd | undefined {
    const entry = this.#runtime.registry.get(name)
    if (entry === undefined) return undefined
    this.#runtime.holdings.wantSoon(name)
    if (entry.role === 'named') this.#listeners.useNamed(name)
    try {
      return entry.fd.dup()
    } catch (cause) {
      throw outOfDescriptors(`"${name}" cannot be duplicated`, cause)
    }
  }

  /**
   * Adds a handler for a command of operators (`OperatorClient.command`, `fd-broker routes`), which arrives over the control socket or
   * through a daemon. Only the process that serves gets commands, and only from its own user and root. Body and reply have at most 15 MiB.
   * A handler that changes the state should await the change, and may be called again while it runs. Throws ERR_FDB_OPTION if the name is
   * invalid, or already has a handler.
   */
  command(name: string, handler: CommandHandler): this {
    this.#runtime.commands.set(name, handler)
    return this
  }

  /**
   * Takes over. Resolves when this process serves; until then the incumbent serves. If it rejects, the incumbent continues to serve; this
   * process has closed its listeners and state, and should end. If the commit is undone after this process has accepted clients, it rejects
   * when these have been answered, at the latest after `drain.timeout`.
   *
   * Rejects with the error of a check (ERR_FDB_CHECK), ERR_FDB_UNSERVED (a listener would be without a server), ERR_FDB_DEADLINE,
   * ERR_FDB_STATE_VALUE (entries cannot be decoded), ERR_FDB_SCHEMA, and errors of the incumbent such as ERR_FDB_ABORTED.
   */
  async ready(options: ReadyOptions = {}): Promise<void> {
    const given = checkOptions('ready()', options, READY)
    for (const name of this.#listeners.names) this.#runtime.registry.wanted.add(name)
    await this.#driver.ready(given)
    reportServerStage(this.generation > 1 ? 'joined' : 'served')
  }

  /**
   * Runs work in one process only: cron jobs, queue consumers, watchers. `start` is called when this process serves and may write, and
   * again after a failed upgrade or a rollback. `start` returns the function that stops the work. The library awaits the stop before another
   * process may serve, and before this one leaves.
   *
   * A stop may change the state. All stops run at the same time. After `upgrade.quiesce` milliseconds their `signal` aborts, and the handoff
   * continues. An exception of `start` or a stop is logged and counted. Work whose `start` threw is started again the next time.
   */
  whileServing(start: StartWork): this {
    if (typeof start !== 'function') throw wrongOption('start', start, 'a function')
    this.#runtime.leadership.add(start)
    return this
  }

  /**
   * Stops accepting until {@link resume}, or until this process starts to serve again: new clients wait in the kernel's queue. Open
   * connections are not affected, and the next version accepts as usual.
   */
  pause(): void {
    for (const listener of this.#listeners.all) listener.pause()
  }

  /** Ends {@link pause}. Does nothing if this process does not serve. Rejects if a server cannot be attached. */
  async resume(): Promise<void> {
    if (this.#runtime.machine.member.accepting) await this.#listeners.start()
  }

  /**
   * Sets the hook for `fd-broker reload`, for example to read the configuration again. The service manager is notified of each reload.
   * Throws ERR_FDB_OPTION if there already is a hook.
   */
  onReload(hook: () => unknown): this {
    this.#runtime.reloading.set(hook)
    return this
  }

  /**
   * Runs the reload hook; concurrent calls run one after the other. Rejects with its exception, or ERR_FDB_COMMAND_UNKNOWN without a hook.
   */
  async reload(): Promise<void> {
    await this.#runtime.reloading.run()
  }

  /** Resolves when this process does not serve any more and its last connection has ended: the time to close the database. */
  get retired(): Promise<RetiredReason> {
    return this.#runtime.shutdown.retired
  }

  /**
   * Starts a successor of this process and resolves when it serves. The successor gets the command of this process (unless `argv` is
   * given), with its path as it was given, in the folder where this process was started. If it rejects, this process continues to serve:
   * ERR_FDB_NO_BINARY, ERR_FDB_SPAWN, ERR_FDB_SUCCESSOR_EXITED, ERR_FDB_BUSY, or the reason why the handoff failed.
   *
   * If `signal` aborts (ERR_FDB_ABORTED) or `timeout` passes (ERR_FDB_DEADLINE) before the Commit, the successor's process group gets
   * SIGTERM, and SIGKILL after 2 s; then the promise rejects. After the Commit neither has an effect, and the promise settles with the
   * outcome.
   */
  async upgrade(options: UpgradeOptions = {}): Promise<Upgraded> {
    return await this.#runtime.upgrades.start(checkOptions('upgrade()', options, UPGRADE))
  }

  /**
   * Leaves the service. Without a successor the service ends, and the listeners are closed. Resolves when the last connection has ended, or
   * was closed after `timeout` milliseconds (default: `drain.timeout`). Idempotent.
   */
  async close(options: CloseOptions = {}): Promise<void> {
    await this.#driver.close(checkOptions('close()', options, CLOSE))
  }

  /** @internal Removes the Unix paths if the service ends with this process. Synchronous, for the event `exit` of the process. */
  exits(): void {
    this.#driver.exits()
  }

  /** @internal Sends a signal to the older versions that stand by or drain. */
  signalOlder(signal: NodeJS.Signals): void {
    this.#runtime.older.signal(signal)
  }

  /** @internal Whether this process no longer serves but must live on, because other processes would end with it: see {@link stay}. */
  get staysForOthers(): boolean {
    return staysForOthers(this.#runtime)
  }

  /**
   * Waits until no process lives that would end with this one (see `mainProcess` of {@link join}). Resolves with the exit code for this
   * process: the code of the process that served last, or 128 plus the number of the signal that ended that process.
   *
   * After this process has stopped serving, it forwards `signals` to the process that serves, and reaps orphaned processes. With `until` it
   * also stays while a process in another container serves. If no process would end with this one, or without `mainProcess: 'stays'`, it
   * resolves with 0 when {@link retired} does. Call it once, at any time. While this process serves, it handles its signals itself.
   */
  async stay(options: StayOptions = {}): Promise<number> {
    return await stay(this.#runtime, checkOptions('stay()', options, STAY))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Adds the application's own facts to {@link status}. `details` is called for each status; its result is sent as JSON. */
  describe(details: () => Record<string, unknown>): this {
    if (typeof details !== 'function') throw wrongOption('details', details, 'a function')
    this.#details = details
    return this
  }

  /**
   * Returns the metrics of the service in the OpenMetrics text format, for the handler of `GET /metrics`. This process counts from the first call on,
   * so call it in each version, for example once after {@link ready}. The counts are part of the state: all processes add up one set of counters, which
   * go on in the next version, and no upgrade or rollback makes one fall. During a handoff the call waits, at most 5 s.
   */
  async metrics(): Promise<string> {
    return await this.counting.text(this.hasServed)
  }

  /** @internal The metrics, which {@link metrics} returns as text. */
  get counting(): MemberMetrics {
    const runtime = this.#runtime
    return runtime.metrics ?? runtime.startMetrics(() => gaugesOf(runtime)).follow(this)
  }

  /** Returns the report of `fd-broker status`. */
  status(): StatusReport {
    return this.#driver.status()
  }

  #emit<E extends keyof MemberEvents>(event: E, ...args: MemberEvents[E]): void {
    this.#guarded.call(event, args)
  }
}

/** The events of EventEmitter itself, and `error`, to which `events.once()` also listens. */
const OWN: ReadonlySet<string | symbol> = new Set(['error', errorMonitor, 'newListener', 'removeListener'])

/** Throws ERR_FDB_EVENT for an unknown event, so that a misspelt one is noticed. */
function checkEvent(event: string | symbol, known: readonly string[]): void {
  if (OWN.has(event) || (typeof event === 'string' && known.includes(event))) return
  const hint = typeof event === 'string' ? didYouMean(event, known) : ''
  throw new FdbError(
    'ERR_FDB_EVENT',
    `a member has no event "${String(event)}"${hint}: it has ${known.join(', ')}`,
    { details: { event: String(event) } },
  )
}
