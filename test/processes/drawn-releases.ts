import { renameSync, writeFileSync } from 'node:fs'
import type { OrderLedger } from './given-orders.js'

/** `gated`: not healthy before its gate opens. `sick`: never healthy. `bad file`: the file has mistakes. */
export type Release = 'good' | 'gated' | 'sick' | 'crashes' | 'bad file'

interface ReleasesDeps {
  /** The file that says which release a next version is. */
  readonly file: string
  readonly ledger: OrderLedger
  readonly below: (n: number) => number
  /** Drawn by {@link DrawnReleases.draw}. */
  readonly kinds: readonly Release[]
  /** A version that has read the file may fail for this time after the file names another release. */
  readonly lastingMs: number
  /** Returns the text of the file. The gate is a file that exists when it is open. */
  textOf(release: Release, id: number, gate: string): string
}

/** The releases that a file names, one after the other. */
export class DrawnReleases {
  /** The number of the last release whose file had no mistakes. */
  good = 0
  /** The release that the file names. */
  current: Release = 'good'
  readonly #deps: ReleasesDeps
  /** Gates, with the number of orders until each opens. */
  readonly #gates: { readonly file: string; left: number }[] = []
  #count = 0
  #replaced = () => {}

  constructor(deps: ReleasesDeps) {
    this.#deps = deps
  }

  draw(): void {
    const { below, kinds } = this.#deps
    this.write(kinds[below(kinds.length)]!)
  }

  write(release: Release): void {
    const { below, file, ledger, textOf } = this.#deps
    this.current = release
    this.#replaced()
    this.#replaced = release === 'good' ? () => {} : this.#lasting(release)
    const id = ++this.#count
    const gate = `${file}.gate-${id}`
    if (release === 'gated') this.#gates.push({ file: gate, left: below(3) })
    if (release !== 'bad file') this.good = id
    // No version reads a part of the file.
    writeFileSync(`${file}.next`, textOf(release, id, gate))
    renameSync(`${file}.next`, file)
    ledger.note(`the file has release ${id}: ${release}`)
  }

  #lasting(why: Release): () => void {
    const { ledger, lastingMs } = this.#deps
    const over = ledger.begin(why)
    return () => setTimeout(over, lastingMs).unref()
  }

  /** An order was given: opens the gates that have waited for it. */
  openGates(all = false): void {
    for (const gate of this.#gates.splice(0))
      if (all || gate.left-- <= 0) {
        this.#deps.ledger.note('a gate opens')
        writeFileSync(gate.file, '')
      } else this.#gates.push(gate)
  }
}
