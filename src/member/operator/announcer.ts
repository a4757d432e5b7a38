import { isUnderWay } from '../../handoff/phases.js'
import { servingPid } from '../../operator/serving.js'
import { endsWithin, pidfdOfLiving } from '../../os/liveness.js'
import { PidFile } from '../../os/pid-file.js'
import type { FdStore } from '../../os/service-manager/passed-sockets.js'
import { type MainProcess, ServiceManager, Watchdog } from '../../os/service-manager/service-manager.js'
import { isStartedSuccessor } from '../../versions/exit-reason.js'
import { checkHealth } from '../lifecycle/heartbeat.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { Settings } from '../options/options.js'
import type { FdStoreMirror } from './fd-store-mirror.js'
import type { StatusTexts } from './status-texts.js'
import type { Upgrades } from './upgrades.js'

/** A successor that does not end within this time after its main process was told to end may not have been told. */
const DECIDES_MS = 1_000
/** An ordered end takes at most this much longer than was ordered if the successor serves on. */
const LATE_MS = 500
const ASK_AGAIN_MS = 500

/** The role that this process announced last. */
type AnnouncedRole =
  /** Nothing was announced: the process has not served yet. */
  | 'starting'
  | 'serving'
  /** The process serves, and is being replaced or reloads its configuration. */
  | 'changing'
  | 'replaced'
  /** This process stops, and no other process takes over. */
  | 'ending'

export interface AnnouncerDeps {
  readonly settings: Settings
  readonly machine: Machine
  readonly shutdown: Shutdown
  readonly upgrades: Upgrades
  readonly texts: StatusTexts
  /** Makes the mirror of descriptors in this store of the service manager. */
  readonly mirrorTo: (store: FdStore | null) => FdStoreMirror
}

/**
 * Announces the serving process to the service manager, and writes the pid file. An incumbent stays the unit's main process while it stands by: a manager
 * that notices the end of the main process ends the service, and the successor may still fail. When the incumbent leaves, it announces its successor.
 */
export class Announcer {
  readonly #deps: AnnouncerDeps
  readonly #manager: ServiceManager | null
  readonly #watchdog: Watchdog
  readonly #pidFile: PidFile | null
  /** The epoch in which this process has written the pid file. */
  #epoch = 0
  readonly #storeMirror: FdStoreMirror
  #role: AnnouncedRole = 'starting'
  #status = ''
  #reloading = 0
  #reloadFailed: string | null = null
  /** Whether the manager was told that the successor is the main process. */
  #isNamed = false
  /** Whether that was before this process was told to end. */
  #namedBeforeEnd = false
  /** Pid of the process that is the main process after this one. */
  #heir: number | null = null

  constructor(deps: AnnouncerDeps) {
    const { health, logger, pidFile, service, systemd } = deps.settings
    this.#deps = deps
    this.#manager = systemd === 'auto' ? ServiceManager.find(logger) : null
    this.#watchdog = new Watchdog(
      this.#manager,
      () => checkHealth(health).healthy,
      () => deps.shutdown.order.leftMs,
    )
    this.#pidFile = PidFile.at(pidFile, logger)
    const store = this.#manager?.storeFor(service) ?? null
    this.#storeMirror = deps.mirrorTo(store)
    deps.machine.changes.watch(() => this.#update())
  }

  async reload(work: () => unknown): Promise<void> {
    this.#reloading++
    this.#update()
    try {
      await work()
      this.#reloadFailed = null
    } catch (error) {
      this.#reloadFailed = error instanceof Error ? error.message : String(error)
      throw error
    } finally {
      this.#reloading--
      this.#update()
    }
  }

  ends(): void {
    if (this.#role === 'ending') return
    this.#role = 'ending'
    // While this process drains, a next first version may serve, whose file a cleaner removes.
    this.#pidFile?.leave()
    this.#storeMirror.end()
    this.#manager?.ends(this.#deps.texts.ends)
    this.#watchdog.extendTimeout()
  }

  /** Whether this process was replaced, but the manager does not know another main process yet. */
  get isReplacedMain(): boolean {
    return this.#manager !== null && this.#role === 'replaced' && !this.#isNamed
  }

  /**
   * If this process is the main process of the unit and was replaced, resolves when its successor has ended or serves on: with the main process the
   * manager ends all others. `waits` is called before.
   */
  async successorEnded(waits: () => void): Promise<void> {
    const successor = this.#heir
    if (this.#manager === null || successor === null || this.#namedBeforeEnd) return
    const { settings, shutdown } = this.#deps
    const { control, service } = settings
    const decidesMs = Math.min(DECIDES_MS, shutdown.order.leftMs + LATE_MS)
    waits()
    using pidfd = pidfdOfLiving(successor)
    if (pidfd === null) return
    for (let ms = decidesMs; !(await endsWithin(pidfd, ms)); ms = ASK_AGAIN_MS)
      if ((await servingPid(control, service)) !== null) return
  }

  close(): void {
    this.#watchdog.close()
    this.#storeMirror.close()
    if (this.#role === 'ending') this.#pidFile?.remove()
    else this.#pidFile?.leave()
  }

  #update(): void {
    const before = this.#role
    const { machine, shutdown } = this.#deps
    if (shutdown.over || before === 'ending') return
    if (shutdown.closing) this.#watchdog.extendTimeout()
    switch (machine.phase) {
      case 'serving':
      case 'unfit':
      case 'frozen':
        this.#serves(this.#changing ? 'changing' : 'serving')
        return
      case 'standby':
        if (before !== 'replaced' && before !== 'starting') this.#isReplaced()
        return
      // Without probation a replaced process has already left `standby` when this function runs.
      case 'leaving':
        if (before === 'starting') return
        if (before === 'replaced' || this.#deps.upgrades.servingSuccessor !== null) {
          if (before !== 'replaced') this.#isReplaced()
          this.#nameSuccessor()
        } else if (machine.holder === null) {
          // Without an order to end the service the standby takes over again, and announces itself to the service manager.
          this.#role = 'replaced'
          this.#isNamed = true
          this.#pidFile?.remove()
        }
    }
  }

  get #changing(): boolean {
    const { upgrades } = this.#deps
    const { holder, phase } = this.#deps.machine
    return this.#reloading > 0 || phase === 'frozen' || upgrades.underWay || isUnderWay(holder?.phase)
  }

  #serves(role: 'serving' | 'changing'): void {
    const before = this.#role
    const status = this.#deps.texts.serves({ reloads: this.#reloading > 0, reloadFailed: this.#reloadFailed })
    const { epoch } = this.#deps.machine.member
    const starts = before === 'starting' || before === 'replaced'
    if (!starts && epoch !== this.#epoch && !this.#deps.machine.sealed) {
      // A next version may have written its own pid, and its commit was undone.
      this.#epoch = epoch
      this.#pidFile?.write()
    }
    if (role === before && status === this.#status) return
    // After a long SIGSTOP this process may not know yet that its segment is sealed and another process serves.
    if (starts && this.#deps.machine.sealed) return
    this.#role = role
    this.#status = status
    if (starts) {
      this.#isNamed = false
      this.#epoch = epoch
      this.#storeMirror.start()
      this.#pidFile?.write()
      this.#watchdog.start()
      const isNew = before === 'replaced' || this.#announcesItself
      this.#manager?.serves(status, isNew ? SELF_MAIN : undefined)
    }
    if (role === 'changing') {
      if (before !== 'changing') this.#manager?.changes(status)
      else this.#manager?.says(status)
      this.#watchdog.extendTimeout()
    } else if (!starts) {
      if (before === 'changing') this.#manager?.serves(status)
      else this.#manager?.says(status)
      if (!this.#deps.shutdown.closing) this.#watchdog.endExtension()
    }
  }

  /** Whether this successor must announce itself: its incumbent is dead or, if the holder is a daemon, has not started this process. */
  get #announcesItself(): boolean {
    const { link, scope, source } = this.#deps.machine.member
    return source !== 0 && (link !== 'up' || (scope === 'member' && !isStartedSuccessor))
  }

  #isReplaced(): void {
    this.#role = 'replaced'
    this.#pidFile?.leave()
    this.#storeMirror.end()
    this.#status = ''
    this.#watchdog.close()
    const successor = this.#deps.upgrades.servingSuccessor
    if (successor !== null) this.#manager?.serves(this.#deps.texts.standsBy(successor.pid))
  }

  /** Makes the service manager the parent of the successor, before the manager is told of it: later it would not notice that. */
  #nameSuccessor(): void {
    if (this.#isNamed) return
    this.#isNamed = true
    this.#namedBeforeEnd = !this.#deps.shutdown.closing
    const { upgrades } = this.#deps
    const successor = upgrades.servingSuccessor
    const started = upgrades.startedAs(successor)
    started?.orphan()
    const main =
      started === null || started.pid === successor?.pid ? successor : { pid: started.pid, pidfd: null }
    if (main === null) return
    this.#heir = main.pid
    this.#manager?.names(main)
  }
}

const SELF_MAIN: MainProcess = { pid: process.pid, pidfd: null }
