import { FdbError } from '../errors.js'
import type { Outcome } from '../handoff/effect-queue.js'
import type { EmbeddedEffect, EmbeddedEvent } from '../handoff/embedded.js'
import type { MemberEffect, MemberState } from '../handoff/member-machine.js'
import { accepts, isUnderWay, type MemberPhase } from '../handoff/phases.js'
import { insist } from '../holder/insist.js'
import { removePaths } from '../holder/made-paths.js'
import type { Upgraded } from '../operator/requests.js'
import type { StatusReport } from '../operator/status-report.js'
import { keepLastWords } from '../versions/last-words.js'
import { afterHearing, type Limit } from '../wire/pending.js'
import type { Announcer } from './announcer.js'
import { lives, livesNoMore, watchRetired } from './departure.js'
import type { Duty } from './duty.js'
import type { Hosting } from './hosting.js'
import { startListeners } from './listener.js'
import type { CloseOptions, ReadyOptions, UpgradeOptions } from './member-options.js'
import type { Settings } from './options.js'
import { type Application, type Origin, Parts, type PartsDriver } from './parts.js'
import type { Shared } from './shared.js'
import { describe } from './status.js'
import { staysForOthers } from './stay.js'
import type { Upgrades } from './upgrades.js'

/** What is done for every effect of the member's machine. What it returns is awaited before the next one. */
type Effects = {
  readonly [Type in MemberEffect['type']]: (
    effect: Extract<MemberEffect, { type: Type }>,
  ) => void | Promise<void>
}

/**
 * The driver of one process's part: has the effects of the machines carried out, each by the part that it concerns, and tells them
 * what has come of it.
 */
export class MemberDriver implements PartsDriver {
  readonly parts: Parts
  #freezeLimit: Limit | undefined

  readonly #effects: Effects = {
    send: ({ message }) => {
      const sent = this.parts.toHolder.send(message)
      if (message.kind === 'serving') this.#tellServing()
      return sent
    },
    accept: () => {
      this.parts.controlSocket.open()
      if (this.phase === 'beginning') this.#setOptions()
      return startListeners(this.parts.listeners)
    },
    stopAccepting: () => this.#stopAccepting(),
    closeListeners: () => this.#closeListeners(),
    quiesce: ({ epoch }) =>
      this.parts.duty.whenQuiesced(() => {
        if (!this.parts.departure.over) this.parts.machine.step({ type: 'quiesced', epoch })
      }),
    unquiesce: () => this.parts.duty.resume(),
    freeze: () => {
      this.parts.duty.hurry()
      this.#keepOptions()
      this.parts.state.freeze()
    },
    thaw: () => this.parts.state.thaw(),
    carry: ({ below }) => this.parts.state.carry(below),
    seal: ({ from, below }) => this.#insist('seal', () => this.parts.shelf.seal(from, below)),
    make: ({ epochs }) => this.#insist('make', () => void this.parts.shelf.make(epochs)),
    write: ({ epoch }) => {
      this.#setOptions()
      return this.parts.state.write(epoch)
    },
    endWriting: () => this.parts.writes.end(),
    becomeHolder: () => this.parts.hosting.becomeHolder(),
    judge: () => this.parts.joined.judge(),
    reconnect: () => {
      this.#keepOptions()
      this.parts.hosting.reconnect()
    },
    drain: () => this.parts.drain.begin(),
    exit: () => this.end(this.parts.departure.reason),
  }

  constructor(settings: Settings, origin: Origin) {
    this.parts = new Parts(settings, origin, this)
  }

  bind(application: Application): void {
    const { joined, readiness } = this.parts
    this.parts.application = application
    lives(this)
    readiness.remind(() => joined.facts?.pid ?? null)
  }

  get phase(): MemberPhase {
    return this.parts.machine.phase
  }

  // ---- the machine

  /** What it returns is awaited before the next effect. */
  perform({ by, effect }: EmbeddedEffect): void | Promise<void> {
    if (by === 'member')
      return (this.#effects[effect.type] as (effect: MemberEffect) => void | Promise<void>)(effect)
    const { controlSocket, hosting } = this.parts
    const done = hosting.holder?.perform(effect)
    if (effect.type === 'make') controlSocket.supplyOlder()
    return done
  }

  /** What has come of an effect is an event of the machine. */
  outcome({ by, effect }: EmbeddedEffect, outcome: Outcome): void {
    const { departure, hosting, machine, settings, state, unfitness } = this.parts
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
      state.unreadable(error)
      return
    }
    settings.logger.error({ err: error, effect: effect.type }, 'a step of the handoff failed')
    if (effect.type !== 'accept' && effect.type !== 'carry' && effect.type !== 'write') return
    departure.because(unfitness.note(error))
    const epoch =
      effect.type === 'accept' ? {} : { epoch: effect.type === 'carry' ? effect.below : effect.epoch }
    machine.step({ type: 'failed', effect: effect.type, ...epoch })
  }

  stepped(event: EmbeddedEvent, before: MemberState): void {
    const { changes, hosting, machine, state } = this.parts
    const { member } = machine
    if (before.phase !== member.phase) this.#phaseChanged(before.phase, member)
    hosting.holder?.stepped()
    changes.tell()
    if (event.to === 'holder' && event.event.type === 'renew' && member.epoch !== before.epoch)
      void machine.settled().then(() => state.compact())
  }

  #phaseChanged(before: MemberPhase, { phase, epoch, link }: MemberState): void {
    const { generation, machine, readiness, settings } = this.parts
    // What is told of a daemon is what becomes of its members.
    const level = settings.desk === null ? 'info' : 'debug'
    settings.logger[level]({ phase, before, epoch, generation }, 'member phase')
    this.#freezeLimit?.clear()
    if (before === 'beginning' && phase === 'serving') {
      this.#begun()
      if (link === 'local') this.#tellServing()
    }
    if (phase === 'unfit') this.#cannotWrite()
    if (before === 'beginning' && link === 'local') this.decides()
    if (phase === 'leaving' && !readiness.served) readiness.fail(this.whyNot())
    if (phase === 'frozen' && link !== 'local') {
      // The holder's deadline decides; this one only keeps the service from waiting for a holder that is stuck.
      this.#freezeLimit = afterHearing(settings.times.freeze * 3, () => machine.step({ type: 'deadline' }))
    }
  }

  #insist(what: string, act: () => void): void | Promise<void> {
    const { departure, settings } = this.parts
    return insist(act, what, settings.logger, () => departure.over)
  }

  /** Behind the commit: until then the incumbent's clients meet the incumbent's options. */
  #setOptions(): void {
    for (const listener of this.parts.listeners) listener.setOptions()
  }

  /** A successor may begin to serve without another word to this process. */
  #keepOptions(): void {
    if (this.phase !== 'standby') for (const listener of this.parts.listeners) listener.keepOptions()
  }

  // ---- turns of its life

  /** Everything that was acknowledged is here, and this process has the right to write. */
  #begun(): void {
    const { departure, drain, moves, state, timing, unfitness, writes } = this.parts
    unfitness.clear()
    keepLastWords()
    moves.serve()
    state.file?.serve()
    writes.begun()
    this.parts.followed?.begun()
    drain.stop()
    timing.note('serving')
    departure.serve()
  }

  /** The application hears of it when whoever decides has been told: who is told by it may ask there at once. */
  #tellServing(): void {
    const { duty, readiness } = this.parts
    readiness.begun()
    duty.begin()
  }

  /** This process was to serve and cannot write. Who decides hears of it by the machine. */
  #cannotWrite(): void {
    const { application, machine, readiness, settings, unfitness } = this.parts
    const { epoch, link } = machine.member
    const why = unfitness.note(new FdbError('ERR_FDB_INTERNAL', 'it could not take over'))
    settings.logger.error({ err: why, epoch }, 'this process cannot write')
    application?.unfit(unfitness.refusal())
    if (readiness.served) return
    if (this.first) {
      // Nobody had it before: there is nothing to answer from.
      if (link === 'local') this.removePaths()
      machine.step({ type: 'leave' })
    } else if (link === 'local') readiness.serves()
  }

  #stopAccepting(): void {
    const { controlSocket, departure, drain, duty, listeners, moves } = this.parts
    for (const listener of listeners) listener.stop()
    controlSocket.close()
    if (!departure.closing) {
      departure.retire()
      moves.leave(true)
      drain.open()
    }
    duty.retire()
  }

  #closeListeners(): void {
    this.parts.controlSocket.release()
    this.parts.holdings.close()
  }

  /** The service ends with this process. */
  removePaths(): void {
    this.parts.controlSocket.removePath()
    removePaths(this.parts.registry)
  }

  decides(): void {
    this.parts.controlSocket.admitWaiting()
    this.settled()
  }

  settled(): void {
    this.parts.holdings.settle()
    this.parts.state.settled()
  }

  late(): void {
    const { departure, joined, machine, settings } = this.parts
    const pid = joined.facts?.pid ?? 'that was to hand over'
    const what = machine.member.holds
      ? `process ${pid} did not complete the handoff in time (phase ${this.phase}): it is stuck or stopped`
      : `process ${pid} did not begin to hand over within ${settings.timeout} ms: it is not ready itself (it has not called ready(), or its own incumbent still stands by), or stuck; try again when it serves`
    departure.because(new FdbError('ERR_FDB_DEADLINE', what, { retryable: true }))
    machine.step({ type: 'deadline' })
  }

  /** Lets go of everything. */
  end(error: FdbError | null): void {
    const { announcer, application, departure, drain, heartbeat } = this.parts
    const { hosting, joined, moves, offers, readiness } = this.parts
    if (departure.over) return
    const why = error ?? new FdbError('ERR_FDB_CLOSED', 'this member was closed before it served')
    departure.end(why)
    this.#freezeLimit?.clear()
    announcer.close()
    heartbeat.stop()
    drain.stop()
    moves.close()
    this.#closeListeners()
    hosting.close()
    joined.detach()
    offers.close()
    this.parts.state.close()
    this.parts.followed?.close()
    this.parts.shelf.close()
    for (const listener of this.parts.listeners) listener.release()
    readiness.fail(why)
    hosting.fail(why)
    departure.tell(reason => application?.retired(reason))
    this.#watchRetired()
  }

  /** Where the process stays for others it is meant to live on. */
  #watchRetired(): void {
    const { application, drain, settings, writes } = this.parts
    if (application === null || staysForOthers(this.parts)) {
      livesNoMore(this)
      return
    }
    const { exitWhenRetired, logger } = settings
    const tell = () => {
      writes.forwarder.end()
      drain.linger()
    }
    watchRetired(this, { logger, exitWhenRetired, tell })
  }

  // ---- what the application asks for

  /** There was nobody to take over from, and no state. */
  get first(): boolean {
    return this.parts.machine.member.source === 0
  }

  async ready(options: ReadyOptions): Promise<void> {
    const { departure, machine, readiness } = this.parts
    if (departure.over) throw this.whyNot()
    if (this.phase !== 'joining') {
      throw new FdbError('ERR_FDB_READY_TWICE', `ready() was called before: this process is ${this.phase}`)
    }
    const serving = readiness.wait()
    try {
      await readiness.check(options, serving, () => {
        for (const listener of this.parts.listeners) listener.check()
        this.parts.holdings.checkServed(options.unserved ?? false)
      })
    } catch (error) {
      this.refuse(error as FdbError)
      throw error
    }
    machine.step({ type: 'adopted' })
    await serving
  }

  /** This version cannot take over; the incumbent serves on and learns why. */
  refuse(error: FdbError): void {
    const { departure, machine } = this.parts
    if (this.phase !== 'joining' && this.phase !== 'ready') return
    departure.because(error)
    if (machine.member.link === 'none') this.end(error)
    else machine.step({ type: 'refused' })
  }

  /** Throws ERR_FDB_CLOSED once nothing can be taken in any more, as nobody would close it. */
  refuseLeft(): void {
    const { phase } = this
    if (!this.parts.departure.over && phase !== 'leaving' && phase !== 'gone') return
    throw new FdbError('ERR_FDB_CLOSED', `this member has left (it is ${phase}): join() again`)
  }

  whyNot(): FdbError {
    return this.parts.departure.reason ?? new FdbError('ERR_FDB_CLOSED', 'this member has left')
  }

  status(): StatusReport {
    return describe(this.parts)
  }

  upgrade(options: UpgradeOptions): Promise<Upgraded> {
    return this.parts.upgrades.start(options)
  }

  async close(options: CloseOptions): Promise<void> {
    const refuse = (error: FdbError) => this.refuse(error)
    await closeInOrder(this.parts, options, { refuse, removePaths: () => this.removePaths() })
  }
}

/** The parts of the process that is closed. */
interface ClosingParts extends Shared {
  readonly hosting: Hosting
  readonly duty: Duty
  readonly upgrades: Upgrades
  readonly announcer: Announcer
}

/** What its driver does. */
interface ClosingDriver {
  /** This process does not come to serve. */
  refuse(error: FdbError): void
  /** The service ends with it. */
  removePaths(): void
}

/** The end that the application asks for: whatever is under way comes to its end first. Resolves when all is let go of. */
async function closeInOrder(
  parts: ClosingParts,
  { timeout, handBack = true }: CloseOptions,
  driver: ClosingDriver,
): Promise<void> {
  const { changes, departure, settings } = parts
  if (timeout !== undefined) departure.drainTimeout = timeout
  if (departure.over) return
  if (!departure.closing) {
    departure.close()
    changes.tell()
    await finishWork(parts, timeout ?? settings.drainTimeout, handBack)
    if (departure.over) return
    leave(parts, handBack, driver)
  }
  if (!departure.over) await departure.retired
}

async function finishWork(parts: ClosingParts, timeoutMs: number, handBack: boolean): Promise<void> {
  const { changes, departure, hosting, machine, upgrades } = parts
  // A successor that this process starts itself is to end with it.
  await upgrades.end(timeoutMs)
  // A handoff under way is brought to its end first: its successor would be the one to serve.
  await changes.until(() => departure.over || !isUnderWay(machine.holder?.phase), timeoutMs)
  if (departure.over || machine.phase !== 'serving') return
  if (!handBack) await hosting.releaseStandby()
  await endDuty(parts)
}

async function endDuty({ changes, departure, duty, settings }: ClosingParts): Promise<void> {
  const quiesced = duty.quiesce()
  if (quiesced === undefined) return
  let ended = false
  void quiesced.then(() => {
    ended = true
    changes.tell()
  })
  await changes.until(() => departure.over || ended, settings.times.quiesce)
  duty.hurry()
}

function leave(
  { announcer, departure, hosting, machine }: ClosingParts,
  handBack: boolean,
  driver: ClosingDriver,
): void {
  const { phase } = machine
  if (phase !== 'leaving') departure.closedBy(phase === 'standby' ? 'replaced' : 'closed')
  const { link } = machine.member
  if (phase === 'joining' || phase === 'ready') {
    if (link === 'none') driver.removePaths()
    driver.refuse(new FdbError('ERR_FDB_CLOSED', 'the application closed this member before it served'))
    return
  }
  if (accepts(phase) && !(handBack && hosting.standsBy)) announcer.ends()
  if (accepts(phase) && link === 'local') driver.removePaths()
  // Who leaves in probation does not come back: the successor need not wait for the end of this process.
  if (machine.holder?.phase === 'probation') machine.stepHolder({ type: 'healthy' })
  machine.step({ type: 'leave' })
}
