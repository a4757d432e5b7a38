import type { Cell } from './cell.js'
import { DAEMON } from './daemon-cells.js'
import { EMBEDDED } from './embedded-cells.js'
import { ORDERS } from './given.js'
import { PHASES, phaseOf } from './phases.js'

interface Hosting {
  /** Its heading in docs/orders.md. */
  readonly heading: string
  /** Its phases; each text completes the sentence "The process …". */
  readonly phases: Readonly<Record<string, string>>
}

function memberPhases(hosting: 'embedded' | 'daemon'): Record<string, string> {
  const names = Object.keys(PHASES) as (keyof typeof PHASES)[]
  return Object.fromEntries(
    names.filter(name => (phaseOf(name).only ?? hosting) === hosting).map(name => [name, PHASES[name].about]),
  )
}

/** How the processes of a service are run, in the order of docs/orders.md. */
export const HOSTINGS = {
  embedded: { heading: 'A program that uses the library', phases: memberPhases('embedded') },
  daemon: { heading: 'A program that uses the library, under a daemon', phases: memberPhases('daemon') },
} as const satisfies Readonly<Record<string, Hosting>>

/** One line of docs/orders.md. */
export interface Place {
  readonly hosting: keyof typeof HOSTINGS
  readonly phase: string
  readonly order: string
}

/** What happens, by hosting, phase and order. */
export const TABLE: Readonly<Record<string, Readonly<Record<string, Readonly<Record<string, Cell>>>>>> = {
  embedded: EMBEDDED,
  daemon: DAEMON,
}

/** Each order in each phase of a hosting. */
export function placesOf(hosting: string): Place[] {
  const { phases } = HOSTINGS[hosting as keyof typeof HOSTINGS]
  return Object.keys(phases).flatMap(phase =>
    Object.keys(ORDERS).map(order => ({ hosting, phase, order }) as Place),
  )
}

export function everyPlace(): Place[] {
  return Object.keys(HOSTINGS).flatMap(placesOf)
}

export function cellAt({ hosting, phase, order }: Place): Cell | undefined {
  return TABLE[hosting]?.[phase]?.[order]
}
