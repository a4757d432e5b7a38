import type { Peer } from '../../holder/peer.js'
import { Calls, Pending } from '../../wire/pending.js'

/** Without a member's answer within this time the status lacks the member's part. */
const MEMBER_ANSWER_MS = 1_000
/** Another user's member has less time; its previous answer stands in for a late one. */
const FOREIGN_ANSWER_MS = 30
/** Another user's member with a longer answer has none. */
const FOREIGN_CHARACTERS = 64 * 1024

/** Whether the member is another user's process. */
export function isOthers({ link }: Peer): boolean {
  return link.channel.foreignUser !== undefined
}

/** Asks the serving member for its status, with one request at a time that all waiting operators share. */
export class StatusRequests {
  readonly #calls = new Calls<Peer, string>()
  /** The last answers of other users' members. */
  readonly #previous = new WeakMap<Peer, string>()

  /** Resolves with the member's status as JSON, not checked; with an empty text if the member does not answer. */
  async ask(peer: Peer): Promise<string> {
    if (!peer.link.open) return ''
    const { answer } = this.#calls.callsTo(peer)[0]?.pending ?? this.#ask(peer)
    if (!isOthers(peer)) return await answer
    const soon = new Pending<string>()
    soon.limit(FOREIGN_ANSWER_MS, () => soon.resolve(this.#previous.get(peer) ?? ''))
    void answer.then(json => soon.resolve(json))
    return await soon.answer
  }

  handleAnswer(peer: Peer, json: string): void {
    const tooLong = isOthers(peer) && json.length > FOREIGN_CHARACTERS
    if (isOthers(peer)) this.#previous.set(peer, tooLong ? '' : json)
    this.#calls.answer(peer, 0, () => (tooLong ? '' : json))
  }

  /** Ends the request to a member that has left. */
  forget(peer: Peer): void {
    this.#calls.answer(peer, 0, () => '')
  }

  #ask(peer: Peer): Pending<string> {
    const { pending } = this.#calls.open(peer, {})
    peer.link.post({ statusRequest: {} })
    return pending.limit(MEMBER_ANSWER_MS, () => pending.resolve(''))
  }
}
