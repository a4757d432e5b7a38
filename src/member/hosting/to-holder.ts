import { FdbError } from '../../errors.js'
import type { ToHolder } from '../../handoff/messages.js'
import type { Registry } from '../../holder/registry.js'
import type { SegmentSet } from '../../holder/segment-set.js'
import type { BundleItem } from '../../wire/bundle.js'
import { packToHolder } from '../../wire/envelope.js'
import type { CannotServe } from '../lifecycle/cannot-serve.js'
import type { Heartbeat } from '../lifecycle/heartbeat.js'
import type { Hosting } from '../lifecycle/hosting.js'
import type { Machine } from '../lifecycle/machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { TakeoverTiming } from '../lifecycle/takeover-timing.js'
import type { Settings } from '../options/options.js'
import type { OwnState } from '../state/own-state.js'
import type { JoinedHolder } from './joined-holder.js'
import type { OfferReceiver } from './offer-receiver.js'

interface ToHolderDeps {
  readonly settings: Settings
  readonly machine: Machine
  readonly shutdown: Shutdown
  readonly registry: Registry
  readonly segmentSet: SegmentSet
  readonly timing: TakeoverTiming
  readonly cannotServe: CannotServe
  readonly heartbeat: Heartbeat
  readonly hosting: Hosting
  readonly joined: JoinedHolder
  readonly offers: OfferReceiver
  readonly state: OwnState
}

/** Sends the state machine's messages to the holder that this process has joined, and adds the facts that each message carries. */
export class ToHolderSender {
  readonly #deps: ToHolderDeps
  constructor(deps: ToHolderDeps) {
    this.#deps = deps
  }

  send(message: ToHolder): void | Promise<void> {
    const { joined } = this.#deps
    if (joined.holder === null) return
    switch (message.kind) {
      case 'ready':
        return this.#ready()
      case 'prepared':
        return this.#prepared()
      case 'abort':
        return this.#abort()
      case 'back':
        return this.#back(message)
      case 'unfit':
        return joined.post({ unfit: { epoch: message.epoch, ...this.#deps.cannotServe.report } })
      default:
        this.#plain(message)
        if (message.kind === 'serving') this.#deps.heartbeat.start()
    }
  }

  #plain(message: Extract<ToHolder, { kind: 'quiesced' | 'frozen' | 'serving' | 'gone' }>): void {
    const { joined, state } = this.#deps
    joined.post(packToHolder(message, state.frozenAt ?? state.log.position))
  }

  #ready(): void {
    const { heartbeat, joined, registry, state, timing } = this.#deps
    timing.record('ready')
    // After Ready the holder takes silence for a stuck process, so the heartbeats start first.
    heartbeat.start()
    joined.post({
      ready: {
        adopted: [...registry.wanted],
        refused: registry.names.filter(name => !registry.wanted.has(name)),
        position: state.log.position,
      },
    })
  }

  #prepared(): void {
    const { joined, state } = this.#deps
    joined.post(packToHolder({ kind: 'prepared' }, state.log.position))
    this.#deps.timing.record('prepared')
    state.takenOver = { ...state.log.position }
  }

  /** Resolves when Abort is sent, because the caller then closes the link. */
  #abort(): Promise<void> | undefined {
    const { joined, machine, shutdown } = this.#deps
    const { code, message } = shutdown.reason ?? new FdbError('ERR_FDB_ABORTED', 'the successor gave up')
    return joined.link?.send({ abort: { code, message, phase: machine.phase } }).catch(() => {})
  }

  /** Sends the descriptors before Back, because at Back the holder decides which process serves. */
  #back({ role, epoch, sealed, unfit = false }: Extract<ToHolder, { kind: 'back' }>): void {
    const { hosting, joined, machine, segmentSet, settings, shutdown } = this.#deps
    const link = joined.link
    link
      ?.sendBundle(this.#held(), settings.timeout)
      .then(() => link.send({ back: { role, epoch, sealed, top: segmentSet.top, unfit } }))
      .then(() => hosting.onBackSent?.(link))
      .catch(error => {
        if (shutdown.over || joined.link !== link) return
        settings.logger.warn(
          { err: error },
          'the process at the control socket did not accept the descriptors of this process: connecting again',
        )
        machine.step({ type: 'failed', effect: 'back' })
      })
  }

  #held(): BundleItem[] {
    const { offers, registry, segmentSet } = this.#deps
    const segments = segmentSet.all.map(segment => ({
      role: 'segment' as const,
      epoch: segment.epoch,
      writable: segmentSet.isWritable(segment.epoch),
      fd: segment.fd,
    }))
    const pidfds = offers.pidfds.map(fd => ({ role: 'pidfd' as const, fd }))
    const wanted = registry.items().filter(({ name }) => registry.wanted.has(name ?? ''))
    return [...wanted, ...segments, ...pidfds]
  }
}
