import type { FdbError } from '../errors.js'
import type { RetiredReason } from './member-options.js'

/** How far a process has come in leaving. */
type Stage =
  /** This process serves, or is to. */
  | 'stays'
  /** Another serves, as the application was told. */
  | 'retired'
  /** The application closes what was not retired. */
  | 'closing'
  | 'closing, retired'
  /** Everything was let go of. */
  | 'over'

/** Why a process leaves, and how far it has come. */
export class Departure {
  /** Resolves when it is over. */
  readonly retired: Promise<RetiredReason>
  /** Milliseconds for the last connections. */
  drainTimeout: number
  /** What the application closes goes on elsewhere: another process serves the same addresses. */
  yields = false
  /** Who asked for it to leave; null: the application does so by itself. */
  asked: string | null = null
  #stage: Stage = 'stays'
  #resolve!: (why: RetiredReason) => void
  #why: RetiredReason = 'lost'
  /** What whoever decides has said: who is fenced while another serves was not told. */
  #told: 'nothing' | 'retire' | 'released' = 'nothing'
  #reason: FdbError | null = null

  constructor(drainTimeout: number) {
    this.drainTimeout = drainTimeout
    this.retired = new Promise(resolve => {
      this.#resolve = resolve
    })
  }

  /** The application was told that another serves, and not yet that this process does again. */
  get isRetired(): boolean {
    return this.#stage === 'retired' || this.#stage === 'closing, retired'
  }

  /** The application wants to go. */
  get closing(): boolean {
    return this.#stage === 'closing' || this.#stage === 'closing, retired'
  }

  get over(): boolean {
    return this.#stage === 'over'
  }

  /** The application has closed what served: nobody does in its place. */
  get ended(): boolean {
    return this.#why === 'closed'
  }

  /** Why this process does not come to serve, or could not. */
  get reason(): FdbError | null {
    return this.#reason
  }

  /** The first reason counts: what came of it says less. */
  because(error: FdbError): void {
    this.#reason ??= error
  }

  /** The process was fenced: what came before does not count. */
  becauseFenced(error: FdbError): void {
    this.#reason = error
  }

  retire(): void {
    if (this.#stage === 'stays') this.#stage = 'retired'
  }

  /** This process writes, for the first time or again. */
  serve(): void {
    this.#reason = null
    if (this.#stage === 'retired') this.#stage = 'stays'
    else if (this.#stage === 'closing, retired') this.#stage = 'closing'
  }

  close(): void {
    if (this.#stage === 'stays') this.#stage = 'closing'
    else if (this.#stage === 'retired') this.#stage = 'closing, retired'
  }

  /** Whoever decides says who serves. */
  hear(word: 'retire' | 'resume' | 'released'): void {
    if (word === 'released') this.#told = word
    else if (this.#told !== 'released') this.#told = word === 'retire' ? word : 'nothing'
  }

  /** The application has closed what served, or stood by. */
  closedBy(why: RetiredReason): void {
    this.#why = why
  }

  /** The process leaves unasked. `released`: by its own holder's word another serves for good. */
  leave(released: boolean): void {
    this.#why = released || this.#told !== 'nothing' ? 'replaced' : 'lost'
  }

  end(why: FdbError): void {
    this.#stage = 'over'
    this.because(why)
  }

  /** Whoever waits hears of it. */
  tell(application: (why: RetiredReason) => void): void {
    this.#resolve(this.#why)
    application(this.#why)
  }
}
