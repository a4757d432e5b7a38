import { isUnderWay } from '../handoff/phases.js'
import { pidOf } from '../os/liveness.js'
import { PidFile } from '../os/pid-file.js'
import { type MainProcess, ServiceManager, Watchdog } from '../os/service-manager/service-manager.js'
import type { BundleItem } from '../wire/bundle.js'
import { FdStoreMirror } from './fd-store-mirror.js'
import { checkHealth } from './heartbeat.js'
import type { JoinedHolder } from './joined-holder.js'
import { SELF } from './machine.js'
import type { MemberContext } from './member-context.js'
import type { Upgrades } from './upgrades.js'

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
  readonly shared: MemberContext
  readonly joined: JoinedHolder
  readonly upgrades: Upgrades
  /** Returns the descriptors of the control socket. Borrowed. */
  readonly control: () => readonly BundleItem[]
}

/** Announces the serving process to the service manager, and writes the pid file. An embedded incumbent announces its successor at the Commit. */
export class Announcer {
  readonly #deps: AnnouncerDeps
  readonly #manager: ServiceManager | null
  readonly #watchdog: Watchdog
  readonly #pidFile: PidFile | null
  readonly #storeMirror: FdStoreMirror
  #role: AnnouncedRole = 'starting'
  #status = ''
  #reloading = 0
  #reloadFailed: string | null = null

  constructor(deps: AnnouncerDeps) {
    const { health, logger, pidFile, service, systemd } = deps.shared.settings
    this.#deps = deps
    this.#manager = systemd === 'auto' ? ServiceManager.find(logger) : null
    this.#watchdog = new Watchdog(
      this.#manager,
      () => checkHealth(health).healthy,
      () => deps.shared.shutdown.order.leftMs,
    )
    this.#pidFile = PidFile.at(pidFile, logger)
    const store = this.#manager?.storeFor(service) ?? null
    this.#storeMirror = new FdStoreMirror({ shared: deps.shared, control: deps.control, store })
    deps.shared.changes.watch(() => this.#update())
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
    this.#storeMirror.end()
    this.#manager?.ends(`generation ${this.#deps.shared.generation} ends`)
    this.#watchdog.extendTimeout()
  }

  close(): void {
    this.#watchdog.close()
    this.#storeMirror.close()
    if (this.#role === 'ending') this.#pidFile?.remove()
    else this.#pidFile?.leave()
  }

  #update(): void {
    const before = this.#role
    const { shutdown, machine } = this.#deps.shared
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
        if (before === 'replaced' || before === 'starting') return
        if (this.#successor !== null) this.#isReplaced()
        else if (machine.holder === null && machine.member.scope === 'holder') {
          // The standby takes over again, and announces itself to the service manager.
          this.#role = 'replaced'
          this.#pidFile?.remove()
        }
    }
  }

  get #changing(): boolean {
    const { shared, upgrades } = this.#deps
    const { holder, phase } = shared.machine
    return this.#reloading > 0 || phase === 'frozen' || upgrades.underWay || isUnderWay(holder?.phase)
  }

  #serves(role: 'serving' | 'changing'): void {
    const before = this.#role
    const status = this.#describe()
    if (role === before && status === this.#status) return
    const starts = before === 'starting' || before === 'replaced'
    // After a long SIGSTOP this process may not know yet that its segment is sealed and another process serves.
    if (starts && this.#deps.shared.machine.sealed) return
    this.#role = role
    this.#status = status
    if (starts) {
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
      if (!this.#deps.shared.shutdown.closing) this.#watchdog.endExtension()
    }
  }

  /** Whether this successor must announce itself: its incumbent is dead, or the holder is a daemon. */
  get #announcesItself(): boolean {
    const { link, scope, source } = this.#deps.shared.machine.member
    return source !== 0 && (scope === 'member' || link !== 'up')
  }

  #isReplaced(): void {
    this.#role = 'replaced'
    this.#pidFile?.leave()
    this.#storeMirror.end()
    this.#status = ''
    this.#watchdog.close()
    const successor = this.#successor
    if (successor === null) return
    const { generation } = this.#deps.shared
    const status = `generation ${generation + 1} serves (process ${successor.pid}); generation ${generation} stands by`
    this.#manager?.serves(status, successor)
  }

  /** The successor that serves. Null if there is none, its pid is unknown in this PID namespace, or the holder is a daemon. */
  get #successor(): MainProcess | null {
    const { hosting, machine } = this.#deps.shared
    const owner = machine.holder?.owner ?? SELF
    const peer = owner === SELF ? undefined : hosting.holder?.peer(owner)
    if (peer === undefined) return null
    const pid = peer.pidfd === null ? peer.pid : pidOf(peer.pidfd)
    return pid > 0 ? { pid, pidfd: peer.pidfd } : null
  }

  #describe(): string {
    const { joined, shared, upgrades } = this.#deps
    const { generation, machine, settings, cannotServe } = shared
    const parts = [settings.reception?.describe() ?? `generation ${generation} serves`]
    if (machine.member.scope === 'holder' && joined.facts !== null)
      parts.push('the previous version stands by')
    if (upgrades.underWay || isUnderWay(machine.holder?.phase)) parts.push('an upgrade is under way')
    else if (this.#reloading > 0) parts.push('the configuration is being reloaded')
    const { lastFailure } = upgrades
    if (lastFailure !== null) {
      const { code, message } = lastFailure
      const what = code === 'ERR_FDB_SUCCESSOR_LEFT' ? 'was rolled back' : `failed: ${code}`
      parts.push(`the last upgrade ${what}: ${message}`)
    }
    if (this.#reloadFailed !== null) parts.push(`the last reload failed: ${this.#reloadFailed}`)
    const { report } = cannotServe
    if (report !== null) parts.push(`the process cannot write: ${report.message}`)
    return parts.join('; ')
  }
}

const SELF_MAIN: MainProcess = { pid: process.pid, pidfd: null }
