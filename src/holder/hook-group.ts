import type { HookName } from '../checks/hooks.js'
import type { ServiceEvent } from '../events/events.js'

/** If the workers have different outcomes, the hook of the first of these runs. */
const ORDER: readonly HookName[] = ['rollback', 'failure', 'success']

/** Starts the hook of an outcome. */
type StartHook = (name: HookName, event: ServiceEvent) => void

/** The hooks of all workers: an upgrade of them has one outcome, and so one hook, when the last of their handoffs has ended. */
export class HookGroup {
  readonly #service: string
  readonly #outcomes: { readonly name: HookName; readonly event: ServiceEvent; readonly start: StartHook }[] =
    []
  /** Orders that are carried out, and handoffs of workers that are under way. */
  #underWay = 0

  /** `service`: the common name of the workers. */
  constructor(service: string) {
    this.#service = service
  }

  /** Carries out an order to all workers. */
  async during<T>(act: () => Promise<T>): Promise<T> {
    this.begin()
    try {
      return await act()
    } finally {
      this.end()
    }
  }

  begin(): void {
    this.#underWay++
  }

  end(): void {
    this.#underWay--
    this.#startOne()
  }

  add(name: HookName, event: ServiceEvent, start: StartHook): void {
    this.#outcomes.push({ name, event, start })
    this.#startOne()
  }

  #startOne(): void {
    if (this.#underWay > 0) return
    const all = this.#outcomes.splice(0)
    const outcome = ORDER.flatMap(each => all.find(({ name }) => name === each) ?? [])[0]
    if (outcome === undefined) return
    const workers: Partial<Record<HookName, number>> = {}
    for (const { name } of all) workers[name] = (workers[name] ?? 0) + 1
    const { event, name, start } = outcome
    start(name, { ...event, service: this.#service, counts: workers as Record<string, number> })
  }
}
