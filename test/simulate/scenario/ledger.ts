import type { SimulatedProcess } from '../process.js'

/** The durable changes that the versions of a service with a state file have acknowledged: none may be lost. */
export class Ledger {
  readonly keys: string[] = []
  readonly refused: { readonly at: number; readonly name: string }[] = []
  /** Called after each acknowledgement, before the client hears of it. */
  onAdded: () => void = () => {}
  /** Called when a version has begun with the state file alone. */
  onStartedAgain: () => void = () => {}

  add(p: SimulatedProcess, key: string): void {
    if (p.dead) return
    this.keys.push(key)
    this.onAdded()
  }

  /** The disk has failed a durable change. */
  refuse(p: SimulatedProcess): void {
    if (!p.dead) this.refused.push({ at: p.world.now, name: p.name })
  }

  startAgain(): void {
    this.onStartedAgain()
  }
}
