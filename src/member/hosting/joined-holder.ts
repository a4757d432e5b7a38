import { FdbError } from '../../errors.js'
import type { MemberState } from '../../handoff/member-machine.js'
import type { Link, WireBody } from '../../wire/link.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Readiness } from '../lifecycle/readiness.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { HolderFacts, HolderLink } from './holder-link.js'
import type { HolderMessages } from './holder-messages.js'

interface JoinedHolderDeps {
  readonly machine: Pick<Machine, 'isClaimed' | 'isReleased' | 'sealed' | 'step'> & {
    readonly member: Pick<MemberState, 'holds' | 'phase'>
  }
  readonly shutdown: Pick<Shutdown, 'over' | 'recordReason'>
  readonly readiness: Pick<Readiness, 'served'>
  readonly hosting: () => Pick<Hosting, 'onLost'>
  readonly messages: Pick<HolderMessages, 'bundle' | 'message'>
  readonly refuse: (error: FdbError) => void
}

/** The link to the holder that this process has joined. Passes its loss, and the holder's death, to the state machine. Owns the link. */
export class JoinedHolder {
  readonly #deps: JoinedHolderDeps
  #holder: HolderLink | null = null
  #keepsAlive = true

  constructor(deps: JoinedHolderDeps) {
    this.#deps = deps
  }

  /** Null if this process has joined no holder, or has closed the link. */
  get facts(): HolderFacts | null {
    return this.#holder?.facts ?? null
  }

  /** Null if {@link facts} is null. A reconnect replaces the link. */
  get holder(): HolderLink | null {
    return this.#holder
  }

  get link(): Link | undefined {
    return this.#holder?.link
  }

  /** Sends a message that gets no answer, or drops it if there is no holder. */
  post(body: WireBody): void {
    this.#holder?.link.post(body)
  }

  /** Owns `holder`. The caller closes the previous link. */
  attach(holder: HolderLink): void {
    this.#holder = holder
    this.keepAlive(this.#keepsAlive)
    const { machine, messages, refuse, shutdown } = this.#deps
    let died = false
    holder.listen({
      message: envelope => messages.message(envelope, holder.facts.pid),
      bundle: items => messages.bundle(items),
      broken: error => {
        shutdown.recordReason(error)
        refuse(error)
      },
      lost: error => {
        if (error !== null) shutdown.recordReason(error)
        else if (!machine.member.holds) shutdown.recordReason(leftEarly(holder.facts.pid))
        machine.step({ type: 'lost' })
        if (died) this.#reportDeath(holder.facts.pid)
        this.#deps.hosting().onLost?.()
      },
      died: () => {
        died = true
        // If the channel is open, its last messages are read first; then `lost` reports the death.
        if (!holder.link.open) this.#reportDeath(holder.facts.pid)
      },
    })
  }

  /** Sets whether the link keeps the process alive. Default true. */
  keepAlive(on: boolean): void {
    this.#keepsAlive = on
    const channel = this.#holder?.link.channel
    if (on) channel?.ref()
    else channel?.unref()
  }

  /** Closes the link: the holder has released this process, or this process ends. */
  detach(): void {
    this.#holder?.close()
    this.#holder = null
  }

  /** Another process may have taken the holder's place before it died: see `Segment.claim`. */
  #reportDeath(pid: number): void {
    const { machine, shutdown } = this.#deps
    const { isClaimed, sealed } = machine
    if (isClaimed) shutdown.recordReason(claimed(pid))
    machine.step({ type: 'fate', fate: isClaimed ? 'alive' : 'dead', sealed })
  }

  /** Checks whether the holder is alive; the state machine gets the result as event `fate`. */
  judge(): void {
    const { machine, readiness, shutdown } = this.#deps
    const holder = this.#holder
    if (holder === null) {
      // Without a holder, continue as if it had died.
      queueMicrotask(() => machine.step({ type: 'fate', fate: 'dead', sealed: machine.sealed }))
      return
    }
    void holder.fate().then(fate => {
      if (this.#holder !== holder || shutdown.over) return
      // The last messages are read first; then `lost` reports the death.
      if (fate === 'dead' && holder.link.open && holder.watched) return
      if (fate === 'alive' && machine.isReleased) {
        // The message Released was lost with the channel, but the holder has also marked the segment. Before the Commit the holder marks the
        // segment when it has left the service without another version.
        const { phase } = machine.member
        if (phase === 'joining' || phase === 'ready')
          machine.step({ type: 'fate', fate: 'dead', sealed: machine.sealed })
        else machine.step({ type: 'message', message: { kind: 'released' }, sealed: false })
        return
      }
      if (fate === 'alive' && !readiness.served) {
        shutdown.recordReason(
          new FdbError(
            'ERR_FDB_CHANNEL_CLOSED',
            'the incumbent closed the channel before the commit; it continues to serve',
          ),
        )
      }
      if (fate === 'dead') this.#reportDeath(holder.facts.pid)
      else machine.step({ type: 'fate', fate, sealed: machine.sealed })
    })
  }
}

function claimed(pid: number): FdbError {
  const why = `process ${pid} did not answer, and fd-broker upgrade --kill-stuck has taken its place and started another version: see fd-broker status`
  return new FdbError('ERR_FDB_LOST', why)
}

function leftEarly(pid: number): FdbError {
  return new FdbError(
    'ERR_FDB_CHANNEL_CLOSED',
    `process ${pid} left before it handed anything over: try again`,
    { retryable: true },
  )
}
