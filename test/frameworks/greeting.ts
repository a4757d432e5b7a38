import type { Workload } from '../../bench/referee/workload.mjs'
import { get, wrong } from '../../bench/referee/workload.mjs'

/** The generation that answered: `generation 3`. */
const GREETING = /generation (\d+)\b/

/** The answers of the pages' programs at `/`, counted by generation. */
export class Greeting implements Workload {
  readonly answers = new Map<number, number>()

  readonly read = () =>
    get('/', body => {
      const generation = Number(GREETING.exec(body)?.[1] ?? 0)
      if (generation === 0) return wrong(`no greeting: ${JSON.stringify(body.slice(0, 200))}`)
      this.answers.set(generation, this.by(generation) + 1)
      return null
    })

  readonly slow = this.read
  readonly stream = this.read
  readonly write = () => null

  by(generation: number): number {
    return this.answers.get(generation) ?? 0
  }
}
