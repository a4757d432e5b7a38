import { FdbError } from '../../errors.js'
import type { ToHolder } from '../../handoff/messages.js'
import { packToHolder } from '../../wire/envelope.js'
import type { Heartbeat } from '../lifecycle/heartbeat.js'
import type { Machine } from '../lifecycle/process-machine.js'
import type { Shutdown } from '../lifecycle/shutdown.js'
import type { OwnListeners } from '../listeners/own-listeners.js'
import type { OwnState } from '../state/own-state.js'
import type { JoinedHolder } from './joined-holder.js'

interface ToHolderDeps {
  readonly machine: Machine
  readonly shutdown: Shutdown
  readonly listeners: () => Pick<OwnListeners, 'choice'>
  readonly heartbeat: Heartbeat
  readonly joined: JoinedHolder
  readonly state: OwnState
}

/** All messages of the state machine but Back, which has descriptors: see {@link BackSender}. */
type PlainMessage = Exclude<ToHolder, { kind: 'back' }>

/** Sends the state machine's messages to the holder that this process has joined, and adds the facts that each message carries. */
export class ToHolderSender {
  readonly #deps: ToHolderDeps
  constructor(deps: ToHolderDeps) {
    this.#deps = deps
  }

  send(message: PlainMessage): void | Promise<void> {
    const { heartbeat, joined, shutdown } = this.#deps
    if (joined.holder === null) return
    switch (message.kind) {
      case 'ready':
        return this.#ready()
      case 'prepared':
        return this.#prepared()
      case 'abort':
        return this.#abort()
      case 'unfit':
        return joined.post({ unfit: { epoch: message.epoch, ...shutdown.cannotServe.report } })
      default:
        this.#plain(message)
        if (message.kind === 'serving') heartbeat.start()
    }
  }

  #plain(message: Extract<ToHolder, { kind: 'quiesced' | 'frozen' | 'serving' | 'gone' }>): void {
    const { joined, state } = this.#deps
    joined.post(packToHolder(message, state.frozenAt ?? state.log.position))
  }

  #ready(): void {
    const { heartbeat, joined, listeners, state } = this.#deps
    // After Ready the holder takes silence for a stuck process, so the heartbeats start first.
    heartbeat.start()
    joined.post({
      ready: {
        ...listeners().choice,
        position: state.log.position,
      },
    })
  }

  #prepared(): void {
    const { joined, state } = this.#deps
    joined.post(packToHolder({ kind: 'prepared' }, state.log.position))
    state.takenOver = { ...state.log.position }
  }

  /** Resolves when Abort is sent, because the caller then closes the link. */
  #abort(): Promise<void> | undefined {
    const { joined, machine, shutdown } = this.#deps
    const { code, message } = shutdown.reason ?? new FdbError('ERR_FDB_ABORTED', 'the successor gave up')
    return joined.link?.send({ abort: { code, message, phase: machine.phase } }).catch(() => {})
  }
}
