import type { FdbError } from '../../errors.js'
import type { HolderState } from '../../handoff/holder-machine.js'
import type { Peer } from '../../holder/peer.js'
import { closeAll } from '../../kernel/index.js'
import { entryFencedError } from '../../member/lifecycle/cannot-serve.js'
import type { Pause } from './pause.js'
import { type ReattachTarget, takeRegistered } from './reattach.js'

export interface RegistrationsDeps {
  readonly pause: Pause
  readonly receiving: () => ReattachTarget
  /** Whether the peer serves and no standby can take over again. */
  readonly servesForGood: (peer: Peer) => boolean
}

/** A Register message without an answer. */
interface Registration {
  readonly peer: Peer
  readonly request: number
  /** Without descriptors the member asks whether it is the only one that has those that it has dropped. */
  readonly isQuestion: boolean
}

/**
 * Answers the members that register descriptors. Another member may start to serve meanwhile: an acknowledged descriptor must be one that this other
 * member gets, so a member that may be replaced at this moment waits until that is decided, and one that was replaced is refused.
 */
export class Registrations {
  readonly #deps: RegistrationsDeps
  #waiting: readonly Registration[] = []

  constructor(deps: RegistrationsDeps) {
    this.#deps = deps
  }

  /** Takes the descriptors that the peer has sent before this message, and answers it, now or when that can be decided. */
  take(peer: Peer, request: number): void {
    const { descriptorTable } = this.#deps.receiving()
    const isQuestion = descriptorTable.markRegistered(peer) === 0
    this.#answerAfterPause({ peer, request, isQuestion })
  }

  /** Answers those that wait, if it is decided which member serves. Call it after each step of the state machine. */
  look(): void {
    const waiting = this.#waiting
    if (waiting.length === 0) return
    this.#waiting = []
    for (const each of waiting) if (!each.peer.forgotten) this.#answerAfterPause(each)
  }

  /** The next daemon gets no descriptor that is taken while this one hands over. */
  #answerAfterPause(registration: Registration): void {
    this.#deps.pause.do(registration.peer, () => this.#answerOrWait(registration))
  }

  #answerOrWait(registration: Registration): void {
    const { machine } = this.#deps.receiving()
    // In the order of the messages of a member.
    const isLater = this.#waiting.some(({ peer }) => peer === registration.peer)
    if (isLater || !isDecided(machine, registration)) this.#waiting = [...this.#waiting, registration]
    else this.#answer(registration)
  }

  #answer({ peer, request, isQuestion }: Registration): void {
    const to = this.#deps.receiving()
    const failure =
      isQuestion || mayServe(to.machine, peer)
        ? takeRegistered(peer, this.#deps.servesForGood(peer), to)
        : refuse(peer, to)
    peer.link.post({ registered: { request, code: failure?.code ?? '', message: failure?.message ?? '' } })
  }
}

function isDecided(
  { bound, joiner, owner, phase }: HolderState,
  { isQuestion, peer }: Registration,
): boolean {
  const { id } = peer
  if (isQuestion) return id !== owner || (phase === 'idle' && bound.length === 0)
  if (phase === 'committing') return id !== owner
  return phase !== 'returning' || (id !== owner && id !== joiner)
}

/** Whether the peer serves, or may start to serve. While the daemon does not know that yet, each one may. */
function mayServe({ joiner, owner, phase }: HolderState, { id }: Peer): boolean {
  return id === owner || id === joiner || phase === 'rebuilding'
}

/** Closes the descriptors of a member that another one has replaced. */
function refuse(peer: Peer, { descriptorTable }: ReattachTarget): FdbError {
  const items = descriptorTable.takeUnclaimed(peer)
  closeAll(items.map(({ fd }) => fd))
  return entryFencedError(items.find(({ name }) => name !== undefined)?.name ?? '')
}
