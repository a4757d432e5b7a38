import { Interner, type Lists } from './interning.js'

export interface Step {
  /** Name of the state after it. */
  readonly state: number
  /** Name of the list of its effects. */
  readonly effects: number
}

/** A real `step` function, each result of which is computed once. */
export class Machine<State, Event, Effect> {
  readonly states = new Interner<State>()
  readonly events = new Interner<Event>()
  readonly #known: Map<number, Step>[] = []

  constructor(
    private readonly lists: Lists,
    private readonly effects: Interner<Effect>,
    /** `sealed`: bit e is set when segment e is sealed, as far as the process can see. */
    private readonly run: (
      state: State,
      event: Event,
      sealed: number,
    ) => { state: State; effects: readonly Effect[] },
  ) {}

  step(state: number, event: number, sealed = 0): Step {
    const key = event * 0x2_0000 + sealed
    let known = this.#known[state]
    if (known === undefined) known = this.#known[state] = new Map()
    let step = known.get(key)
    if (step === undefined) {
      const result = this.run(this.states.value(state), this.events.value(event), sealed)
      step = {
        state: this.states.id(result.state),
        effects: this.lists.of(result.effects.map(effect => this.effects.id(effect))),
      }
      known.set(key, step)
    }
    return step
  }
}
