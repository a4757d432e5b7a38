import type { Role, ToHolder, ToMember } from '../handoff/messages.js'
import type { WireBody, WireEnvelope } from './link.js'

/** Position of a state log, which both sides of a handoff compare. */
export interface StatePosition {
  readonly epoch: number
  readonly sequence: number
  readonly digest: string
}

export function packToMember(
  message: Exclude<ToMember, { kind: 'offer' }>,
  position?: StatePosition,
): WireBody {
  switch (message.kind) {
    case 'quiesce':
      return { quiesce: { epoch: message.epoch } }
    case 'unquiesce':
      return { unquiesce: {} }
    case 'freeze':
      return { freeze: {} }
    case 'sealed':
      return { sealed: position === undefined ? {} : { position } }
    case 'commit':
      return { commit: { epoch: message.epoch } }
    case 'retire':
      return { retire: {} }
    case 'resume':
      return { resume: {} }
    case 'reinstate':
      return { reinstate: { epoch: message.epoch } }
    case 'released':
      return { released: {} }
    case 'fenced':
      return { fenced: {} }
    case 'abort':
      return { abort: {} }
  }
}

export function packToHolder(
  message: Exclude<ToHolder, { kind: 'abort' | 'back' | 'unfit' }>,
  position: StatePosition,
): WireBody {
  switch (message.kind) {
    case 'ready':
      return { ready: { position } }
    case 'quiesced':
      return { quiesced: { epoch: message.epoch } }
    case 'frozen':
      return { frozen: { position } }
    case 'prepared':
      return { prepared: { position } }
    case 'serving':
      return { serving: { epoch: message.epoch } }
    case 'gone':
      return { gone: {} }
  }
}

/** Returns the handoff message to a member, or null for every other message. The Offer is handled when its descriptors have arrived. */
export function unpackToMember(envelope: WireEnvelope): Exclude<ToMember, { kind: 'offer' }> | null {
  switch (envelope.body) {
    case 'quiesce':
      return { kind: 'quiesce', epoch: envelope.quiesce!.epoch ?? 0 }
    case 'unquiesce':
    case 'freeze':
    case 'sealed':
    case 'retire':
    case 'resume':
    case 'released':
    case 'fenced':
    case 'abort':
      return { kind: envelope.body }
    case 'commit':
      return { kind: 'commit', epoch: envelope.commit!.epoch ?? 0 }
    case 'reinstate':
      return { kind: 'reinstate', epoch: envelope.reinstate!.epoch ?? 0 }
    default:
      return null
  }
}

const MAX_EPOCH = 2 ** 31

/** Whether `epoch` is plausible: no service reaches 2^31 epochs, and a faulty peer's larger number would leave too few for later processes. */
export function epochIsSane(epoch: number | null): boolean {
  return (epoch ?? 0) < MAX_EPOCH
}

const ROLES: readonly string[] = ['ready', 'serving', 'frozen', 'standby', 'orphan'] satisfies Role[]

/** Returns the handoff message to a holder, or null for every other message. */
export function unpackToHolder(envelope: WireEnvelope): ToHolder | null {
  switch (envelope.body) {
    case 'ready':
    case 'frozen':
    case 'prepared':
    case 'abort':
    case 'gone':
      return { kind: envelope.body }
    case 'serving':
    case 'unfit':
    case 'quiesced':
      return { kind: envelope.body, epoch: envelope[envelope.body]!.epoch ?? 0 }
    case 'back': {
      const back = envelope.back!
      if (!ROLES.includes(back.role ?? '')) return null
      const { epoch = 0, sealed = false, top = 0 } = back
      if (!epochIsSane(epoch) || !epochIsSane(top)) return null
      return {
        kind: 'back',
        role: back.role as Role,
        epoch: epoch ?? 0,
        sealed: sealed ?? false,
        top: top ?? 0,
        ...(back.unfit && { unfit: true }),
      }
    }
    default:
      return null
  }
}
