import { afterReading, type Limit } from '../base/after-reading.js'
import { FdbError } from '../errors.js'
import type { Outcome } from '../handoff/effect-queue.js'
import type { EmbeddedEffect, EmbeddedEvent } from '../handoff/embedded.js'
import type { MemberEffect, MemberState } from '../handoff/member-machine.js'
import { accepts, isBeforeCommit, isCurrent, type MemberPhase } from '../handoff/phases.js'
import { repeatUntilDone } from '../holder/holder.js'
import { removePaths } from '../holder/unix-paths.js'
import type { DrainReport, StatusReport } from '../operator/status-report.js'
import { dropExitReason } from '../versions/exit-reason.js'
import { settledOf } from './lifecycle/end-order.js'
import type { Origin } from './lifecycle/process-machine.js'
import { addActive, removeActive, watchDoubledTimers, watchRetired } from './lifecycle/shutdown.js'
import { untilTakenOver } from './operator/rollback.js'
import { staysForOthers } from './operator/stay.js'
import type { Check, CloseOptions, ReadyOptions } from './options/member-options.js'
import type { Settings } from './options/options.js'
import { type Application, MemberRuntime, type RuntimeDriver } from './runtime.js'
import { describe, describeDrain } from './status.js'

/** The interval at which a process that closes looks whether a handoff is still under way. */
const HANDOFF_LOOK_MS = 50

/** The action for each effect of the member's state machine. The next effect waits for the promise. */
type Effects = {
  readonly [Type in MemberEffect['type']]: (
    effect: Extract<MemberEffect, { type: Type }>,
  ) => void | Promise<void>
}

/** Carries out the effects of the state machines, each by the responsible part of the member, and passes the outcomes to the machines. */
export class MemberDriver implements RuntimeDriver {
  readonly runtime: MemberRuntime
  #freezeLimit: Limit | undefined
  /** The once-only work must not start again, because this process is about to leave. */
  #endsWork = false

  readonly #effects: Effects = {
    send: ({ message }) => {
      const { back, joined, timing, toHolder } = this.runtime
      const { kind } = message
      if (joined.holder !== null && (kind === 'ready' || kind === 'prepared')) timing.record(kind)
      const sent = kind === 'back' ? back.send(message) : toHolder.send(message)
      if (kind === 'serving') this.#notifyServing()
      return sent
    },
    accept: () => {
      this.runtime.controlSocket.open()
      if (this.phase === 'beginning') this.runtime.listeners.setOptions()
      return this.runtime.listeners.start()
    },
    stopAccepting: () => this.#stopAccepting(),
    closeListeners: () => this.#closeListeners(),
    quiesce: ({ epoch }) =>
      this.runtime.leadership.whenQuiesced(() => {
        if (!this.runtime.shutdown.over) this.runtime.machine.step({ type: 'quiesced', epoch })
      }),
    unquiesce: () => this.startWork(),
    freeze: () => {
      this.runtime.leadership.abortLate()
      this.runtime.listeners.keepOptions()
      this.runtime.state.freeze()
    },
    thaw: () => this.runtime.state.log.resumeWriting(),
    carry: ({ below }) =>
      this.runtime.state.loader.carry(below, this.runtime.machine.member.link === 'local'),
    seal: ({ from, below }) => this.#insist('seal', () => this.runtime.segmentSet.sealForDead(from, below)),
    make: ({ epochs }) => this.#insist('make', () => void this.runtime.segmentSet.make(epochs)),
    write: ({ epoch }) => {
      this.runtime.listeners.setOptions()
      this.runtime.hosting.onGranted?.()
      return this.runtime.state.loader.write(epoch)
    },
    endWriting: () => this.runtime.writes.end(),
    becomeHolder: () => {
      this.#becomeHolder()
      this.startWork()
    },
    judge: () => this.runtime.joined.judge(),
    reconnect: () => {
      const { daemonReturn, hosting, leadership, listeners } = this.runtime
      listeners.keepOptions()
      if (hosting.mayLoseUnheard) void leadership.quiesce()
      daemonReturn?.start()
    },
    drain: () => this.runtime.drain.leave(),
    exit: async () => {
      await this.#othersEnded()
      await this.runtime.reloading.passedOn
      this.end(this.runtime.shutdown.reason)
    },
  }

  constructor(settings: Settings, origin: Origin) {
    this.runtime = new MemberRuntime(settings, origin, this)
  }

  bind(application: Application): void {
    const { joined, readiness } = this.runtime
    this.runtime.application = application
    addActive(this)
    readiness.remind(() => joined.facts?.pid ?? null)
  }

  get phase(): MemberPhase {
    return this.runtime.machine.phase
  }

  perform({ by, effect }: EmbeddedEffect): void | Promise<void> {
    if (by === 'member')
      return (this.#effects[effect.type] as (effect: MemberEffect) => void | Promise<void>)(effect)
    const { hosting, older } = this.runtime
    const done = hosting.holder?.perform(effect)
    if (effect.type === 'make') older.share()
    return done
  }

  outcome({ by, effect }: EmbeddedEffect, outcome: Outcome): void {
    const { shutdown, hosting, machine, settings, state } = this.runtime
    if (by === 'holder') {
      hosting.holder?.outcome(effect, outcome)
      return
    }
    if (outcome.done) {
      if (effect.type === 'write') machine.step({ type: 'begun', epoch: effect.epoch })
      return
    }
    const { error } = outcome
    if (effect.type === 'endWriting') {
      state.onUnreadable(error)
      return
    }
    settings.logger.error(
      { err: error, effect: effect.type },
      'a step of the handoff failed; the steps that depend on it are skipped',
    )
    if (effect.type !== 'accept' && effect.type !== 'carry' && effect.type !== 'write') return
    shutdown.recordReason(shutdown.cannotServe.record(error))
    const epoch =
      effect.type === 'accept' ? {} : { epoch: effect.type === 'carry' ? effect.below : effect.epoch }
    machine.step({ type: 'failed', effect: effect.type, ...epoch })
  }

  stepped(event: EmbeddedEvent, before: MemberState): void {
    const { hosting, logSpace, machine } = this.runtime
    const { member } = machine
    if (before.phase !== member.phase) this.#phaseChanged(before, member)
    hosting.holder?.stepped()
    machine.changes.notify()
    const decides = machine.holder?.phase
    // A process that leaves has no work, and writes no more: a next version that gets ready then waits for neither.
    if (member.phase === 'leaving' && (decides === 'quiescing' || decides === 'freezing'))
      machine.stepHolder({ type: 'deadline' })
    if (event.to === 'holder' && event.event.type === 'renew' && member.epoch !== before.epoch)
      void machine.settled().then(() => logSpace.compact())
  }

  #phaseChanged({ phase: before, accepting }: MemberState, { phase, epoch, link }: MemberState): void {
    const { listeners, machine, origin, readiness, settings, shutdown } = this.runtime
    // A daemon logs the phases of its members; its own are for debugging only.
    const level = settings.reception === null ? 'info' : 'debug'
    settings.logger[level]({ phase, before, epoch, generation: origin.generation }, 'member phase')
    this.#freezeLimit?.clear()
    if (phase === 'standby' || (phase === 'leaving' && !shutdown.leavesByItself)) shutdown.retire()
    if (phase === 'standby') this.runtime.reloading.passOn()
    if (before === 'beginning' && phase === 'serving') {
      this.#onServing()
      if (link === 'local') this.#notifyServing()
    }
    if (phase === 'unfit') this.#cannotWrite()
    if (phase === 'orphan') this.runtime.writes.followOn()
    if (before === 'beginning' && link === 'local') this.#onDecides()
    if (phase === 'leaving') {
      // A process that has accepted answers its clients before end() rejects ready(), because applications end then.
      const hasClients = accepting || listeners.all.some(({ connections }) => connections > 0)
      if (!readiness.served && !hasClients) readiness.fail(this.leaveReason())
      void this.runtime.upgrades.failIfLost()
    }
    if (phase === 'frozen' && link !== 'local') {
      // The holder's deadline is shorter; this one passes only if the holder is stuck.
      this.#freezeLimit = afterReading(settings.times.freeze * 3, () => machine.step({ type: 'deadline' }))
    }
  }

  #insist(what: string, act: () => void): void | Promise<void> {
    const { shutdown, settings } = this.runtime
    return repeatUntilDone(act, what, settings.logger, () => shutdown.over)
  }

  // ---- changes of the phase

  /** Called when this process has read every acknowledged change, and writes. */
  #onServing(): void {
    const { hosting, moves, reportLink, shutdown, state, timing, writes } = this.runtime
    shutdown.cannotServe.cause = null
    hosting.onServing?.()
    dropExitReason()
    moves.serve()
    state.file?.serve()
    writes.forwarder.end()
    this.runtime.followed?.startForwarding()
    reportLink.stop()
    timing.record('serving')
    shutdown.serve()
  }

  /** Notifies the application after the holder, because the application's event listeners may query the holder at once. */
  #notifyServing(): void {
    this.runtime.markServed(this.first)
    this.startWork()
  }

  /** Starts the once-only work, for the first time or again, unless another process may have taken over or may do so unheard. */
  startWork(): void {
    const { hosting, leadership, machine } = this.runtime
    if (this.#endsWork || machine.phase !== 'serving' || machine.sealed || !hosting.isHeard) return
    leadership.acquire()
  }

  /** Called if this process has the right to serve but cannot write. The state machine reports that to the holder. */
  #cannotWrite(): void {
    const { application, machine, readiness, settings, shutdown } = this.runtime
    const { cannotServe } = shutdown
    const { epoch, link } = machine.member
    const why = cannotServe.record(new FdbError('ERR_FDB_INTERNAL', 'this process could not take over'))
    settings.logger.error(
      { err: why, epoch },
      'this process has the right to serve but cannot write the state: it reports that to its holder',
    )
    application?.emit('unfit', cannotServe.unfitError())
    if (readiness.served) return
    if (this.first) {
      // The first process of a service leaves, because it has no state from which it could answer.
      if (link === 'local') this.removePaths()
      machine.step({ type: 'leave' })
    } else if (link === 'local') readiness.resolveWaiting()
  }

  #stopAccepting(): void {
    const { controlSocket, drain, leadership, listeners, settings, shutdown } = this.runtime
    listeners.stop()
    controlSocket.close()
    if (shutdown.isRetired) {
      drain.standBy()
      watchDoubledTimers(settings.logger, () => isCurrent(this.phase))
    }
    leadership.retire()
  }

  #closeListeners(): void {
    const { controlSocket, holdings, listeners, registry } = this.runtime
    controlSocket.release(() => removePaths(registry))
    listeners.close()
    holdings.close()
  }

  removePaths(): void {
    this.runtime.controlSocket.removePath()
    this.runtime.hosting.removeFormerPaths?.(true)
    removePaths(this.runtime.registry)
  }

  /** Called when the process exits. Removes all paths synchronously, unless another process has taken over or may be about to. */
  exits(): void {
    const { machine } = this.runtime
    if (accepts(this.phase) && machine.member.link === 'local' && machine.holder?.phase === 'idle')
      this.removePaths()
    this.#closeListeners()
  }

  /** The holder has released this process, which gets a holder of its own. */
  #becomeHolder(): void {
    const { heartbeat, hosting, joined, machine, offers, segmentSet, timing } = this.runtime
    timing.record('released')
    joined.detach()
    heartbeat.stop()
    offers.close()
    segmentSet.prune(machine.member.epoch)
    hosting.becomeHolder?.()
    // In `beginning` this process must read the changes of earlier processes before it may hand over.
    if (machine.phase !== 'beginning') this.#onDecides()
  }

  /** This process has taken over, and has its own holder. */
  #onDecides(): void {
    this.runtime.controlSocket.check()
    this.runtime.clients.admitWaiting()
    this.onSettled()
  }

  onSettled(): void {
    const { holdings, listeners, logSpace, state } = this.runtime
    listeners.forgetPrevious()
    holdings.settle()
    logSpace.onSettled()
    state.writeMigrated()
  }

  onDeadline(): void {
    const { shutdown, joined, machine, settings } = this.runtime
    const pid = joined.facts?.pid
    const incumbent = pid === undefined ? 'the incumbent' : `process ${pid}`
    const what = machine.member.holds
      ? `${incumbent} did not complete the handoff in time (phase ${this.phase}): it still ends its work, or is stuck or stopped`
      : `${incumbent} did not start the handoff within ${settings.timeout + (joined.facts?.waitMs ?? 0)} ms: it is not ready itself (it has not called ready(), or its own incumbent still stands by), or stuck; try again when it serves`
    shutdown.recordReason(new FdbError('ERR_FDB_DEADLINE', what, { retryable: true }))
    machine.step({ type: 'deadline' })
  }

  end(error: FdbError | null): void {
    const { announcer, heartbeat, reportLink, shutdown } = this.runtime
    const { hosting, joined, moves, offers, older, readiness } = this.runtime
    if (shutdown.over) return
    const why = error ?? this.leaveReason()
    shutdown.end(why)
    this.#freezeLimit?.clear()
    this.runtime.pauses.close()
    announcer.close()
    heartbeat.stop()
    reportLink.stop()
    moves.close()
    older.close()
    this.#closeListeners()
    this.#leaveToJoiner()
    this.runtime.close()
    hosting.close()
    joined.detach()
    offers.close()
    this.runtime.logSpace.close()
    this.runtime.state.close()
    this.runtime.followed?.close()
    this.runtime.segmentSet.close()
    this.runtime.listeners.release()
    readiness.fail(why)
    hosting.fail?.(why)
    this.runtime.machine.changes.notify()
    this.runtime.hooks.whenDone(() => this.#retire())
  }

  /** Lets a next version that has the descriptors serve as soon as it is ready, although this process may live on. */
  #leaveToJoiner(): void {
    const { machine, segmentSet, settings } = this.runtime
    const { phase, grant } = machine.holder ?? {}
    if (grant === undefined || !(isBeforeCommit(phase) || phase === 'committing')) return
    try {
      segmentSet.mark(grant)
    } catch (err) {
      settings.logger.warn({ err }, 'the next version serves only when this process has ended')
    }
  }

  /** If the process stays alive, logs that or ends it (`exitWhenRetired`), unless other processes would end with it. */
  #retire(): void {
    const { application, origin, reportLink, settings, shutdown, writes } = this.runtime
    shutdown.settle(reason => application?.emit('retired', reason))
    if (application === null || staysForOthers(this.runtime)) {
      removeActive(this)
      return
    }
    const report = () => {
      writes.forwarder.end()
      reportLink.linger()
    }
    watchRetired(this, settings, { left: shutdown.why === 'replaced' && origin.generation > 1, report })
  }

  // ---- requests of the application

  /** Whether this is the first process of the service, so that there is no state to take over. */
  get first(): boolean {
    return this.runtime.machine.member.source === 0
  }

  async ready(options: ReadyOptions): Promise<void> {
    const { shutdown, machine, readiness } = this.runtime
    if (shutdown.over) throw this.leaveReason()
    if (this.phase !== 'joining') {
      throw new FdbError('ERR_FDB_READY_TWICE', `ready() was already called (phase ${this.phase})`)
    }
    const serving = readiness.waitForServing()
    try {
      await readiness.check(options, serving, {
        first: this.#stateCheck(options),
        last: () => {
          this.runtime.listeners.checkServed(options.unserved ?? false)
        },
      })
    } catch (error) {
      this.refuse(error as FdbError)
      throw error
    }
    machine.step({ type: 'adopted' })
    await serving
    if (this.first) this.runtime.state.writeMigrated()
  }

  /** Returns the check of the state's entries: a version with a wrong `migrate` must not take over with a state that looks empty. Null if there is none. */
  #stateCheck({ skipInvalid = false }: ReadyOptions): Check | null {
    const { view } = this.runtime
    view.skipInvalid = skipInvalid
    if (skipInvalid || !view.hasSchemas) return null
    const stateEntries: Check = ({ signal }) => view.checkEntries(signal)
    return stateEntries
  }

  /** Gives up the handoff; the incumbent continues to serve and gets the reason. */
  refuse(error: FdbError): void {
    const { shutdown, machine } = this.runtime
    if (this.phase !== 'joining' && this.phase !== 'ready') return
    shutdown.recordReason(error)
    if (machine.member.link === 'none') this.end(error)
    else machine.step({ type: 'refused' })
  }

  /** Throws ERR_FDB_CLOSED if this process has left: a descriptor that is added after that would never be closed. */
  throwIfLeft(): void {
    const { phase } = this
    if (!this.runtime.shutdown.over && phase !== 'leaving' && phase !== 'gone') return
    throw new FdbError('ERR_FDB_CLOSED', `this member has left (phase ${phase}): call join() again`)
  }

  leaveReason(): FdbError {
    return this.runtime.shutdown.reason ?? this.runtime.readiness.leftError
  }

  status(): StatusReport {
    return describe(this.runtime)
  }

  report(): DrainReport {
    return describeDrain(this.runtime)
  }

  /**
   * Closes the member at the application's request, when work under way has ended. Resolves when everything is released. `why`: the error
   * message if this member has not served.
   */
  async close(
    { timeout, handBack = true }: CloseOptions,
    why = 'the application closed this member before it served',
  ): Promise<void> {
    const { connections, machine, older, settings, shutdown } = this.runtime
    if (shutdown.over) return
    shutdown.rollsBack = false
    // The main process decides when the service of a worker ends.
    shutdown.order.handBack &&= handBack || settings.worker !== null
    if (shutdown.order.give(timeout ?? settings.drainTimeout)) {
      connections.shorten()
      older.shorten(shutdown.order.leftMs)
      machine.changes.notify()
    }
    await this.#end(why)
  }

  /** Refuses a next version that joins: an operator ends the service, and that version would serve on. */
  refuseNext(): void {
    const { clients, hosting } = this.runtime
    const why = new FdbError('ERR_FDB_ABORTED', 'an operator has stopped the service')
    hosting.refuseJoiner(why)
    clients.refuseWaiting(why)
  }

  /** Leaves to the standby, as an operator orders. If the standby can serve no more before this process leaves, this process serves on. */
  async rollBack(): Promise<void> {
    const { shutdown } = this.runtime
    if (shutdown.over || shutdown.closing) return
    shutdown.rollsBack = true
    await this.#end('an operator has rolled this member back')
  }

  /** Waits while a handoff is under way. Resolves with whether another process serves then. */
  async handedOver(): Promise<boolean> {
    await this.#waitWhileHandingOver(this.runtime.settings.drainTimeout)
    return !isCurrent(this.phase)
  }

  /** Leaves the service to other workers. That is no order to end: connections that cannot move keep their time. */
  async yield(): Promise<void> {
    this.runtime.shutdown.yield()
    await this.#end('the main process replaced this worker before it served')
  }

  async #end(why: string): Promise<void> {
    const { lastRequests, machine, shutdown } = this.runtime
    if (!shutdown.closing) {
      shutdown.close()
      machine.changes.notify()
      await this.#finishWork()
      if (shutdown.over) return
      if (shutdown.rollsBack) {
        await untilTakenOver(this.runtime, () => this.#lacksStandby)
        if (shutdown.rollsBack && accepts(machine.phase)) this.#serveOn()
        if (!shutdown.closing) return
        // An order to end has come meanwhile.
        if (!shutdown.rollsBack) await this.#finishWork()
      }
      // A next version that has joined meanwhile may still get ready, or fail.
      while (lastRequests.expected && (await lastRequests.answer())) await this.#finishWork()
      if (shutdown.rollsBack) shutdown.order.give(this.runtime.settings.drainTimeout)
      else if (!shutdown.over) this.#leave(why)
    }
    if (!shutdown.over) await shutdown.retired
  }

  /** The process to which an operator rolls back can serve no more: without this one no process would. */
  get #lacksStandby(): boolean {
    const { hosting, machine, shutdown } = this.runtime
    return shutdown.rollsBack && accepts(machine.phase) && !hosting.standsBy
  }

  #serveOn(): void {
    const { machine, shutdown } = this.runtime
    shutdown.reopen()
    this.#endsWork = false
    this.startWork()
    machine.changes.notify()
  }

  /** The process that served last ends last, and so does the main process of a unit: with it, a manager ends all others. */
  async #othersEnded(): Promise<void> {
    const { announcer, older, reportLink } = this.runtime
    await older.ended()
    await announcer.successorEnded(() => reportLink.waitLast())
  }

  async #finishWork(): Promise<void> {
    const { hosting, machine, settings, shutdown, upgrades } = this.runtime
    const { silence, quiesce } = settings.times
    const most = shutdown.order.isGiven ? shutdown.order.leftMs : settings.drainTimeout
    // First the upgrade that this process has started is cancelled, unless Commit was sent.
    await this.#waitFor(upgrades.end(Math.min(most, shutdown.order.leavingMs / 2)), most)
    // Then a running handoff must end, because its successor may serve afterwards.
    await this.#waitWhileHandingOver(most)
    await this.#hurryHandoff()
    // The process that closes the listeners last accepts the clients that wait.
    await this.#waitFor(Promise.resolve(hosting.joinersEnded?.()), silence)
    if (shutdown.over || !(accepts(machine.phase) || machine.phase === 'frozen')) return
    if (shutdown.order.handBack && hosting.hearStandby !== undefined)
      await this.#waitFor(hosting.hearStandby(), silence)
    if (this.#lacksStandby) return
    // A standby that cannot take over would answer reads, and refuse changes, as long as it lives.
    if (!shutdown.order.handBack || hosting.unfitStandby !== null)
      await this.#waitFor(hosting.releaseStandby(), silence)
    if (machine.phase === 'serving') await this.#endLeadership(quiesce)
    if (shutdown.endsListeners) await this.#waitFor(Promise.resolve(hosting.dropListeners?.()), silence)
  }

  async #waitFor(work: Promise<unknown>, ms: number): Promise<void> {
    const { machine, shutdown } = this.runtime
    const settled = settledOf(machine.changes, work)
    const over = () => shutdown.over || settled() || this.#lacksStandby
    await shutdown.order.untilLeaving(machine.changes, over, ms)
  }

  async #waitWhileHandingOver(ms: number): Promise<void> {
    const { hosting, machine, shutdown } = this.runtime
    // In daemon hosting a failed handoff shows in its segments, which nothing tells: they are looked at regularly.
    const ticks = setInterval(() => machine.changes.notify(), HANDOFF_LOOK_MS)
    await shutdown.order.untilLeaving(machine.changes, () => shutdown.over || !hosting.isHandingOver, ms)
    clearInterval(ticks)
  }

  /** This process must leave: a next version that is ready waits no longer for the end of its work. */
  async #hurryHandoff(): Promise<void> {
    const { hosting, machine, settings, shutdown } = this.runtime
    if (shutdown.over || machine.holder?.phase !== 'quiescing') return
    machine.stepHolder({ type: 'deadline' })
    const { freeze, prepare, commit } = settings.times
    const ms = Math.min(shutdown.order.leftMs, freeze + prepare + commit)
    await machine.changes.until(() => shutdown.over || !hosting.isHandingOver, ms)
  }

  async #endLeadership(ms: number): Promise<void> {
    this.#endsWork = true
    const quiesced = this.runtime.leadership.quiesce()
    if (quiesced === undefined) return
    await this.#waitFor(quiesced, ms)
    this.runtime.leadership.abortLate()
  }

  #leave(why: string): void {
    const { announcer, hosting, machine, older, shutdown } = this.runtime
    const { handBack, leftMs } = shutdown.order
    const { member, phase } = machine
    if (phase !== 'leaving') shutdown.closedBy(phase === 'standby' ? 'replaced' : 'closed')
    if (phase === 'joining' || phase === 'ready') {
      if (member.link === 'none') this.removePaths()
      this.refuse(new FdbError('ERR_FDB_CLOSED', why))
      return
    }
    if (accepts(phase) && !(handBack && hosting.standsBy)) {
      announcer.ends()
      if (!shutdown.yields) older.end(leftMs)
    }
    if (accepts(phase) && member.link === 'local') this.removePaths()
    // A standby that leaves cannot take over again: release the successor now.
    if (machine.holder?.phase === 'probation') machine.stepHolder({ type: 'healthy' })
    machine.step({ type: 'leave' })
  }
}
