import { AUTO } from './auto-cells.js'
import { AUTO_ORDERS, AUTO_PHASES, type AutoOrderName, type AutoPhaseName, autoStage } from './auto-stage.js'
import type { Cell, Sight } from './cell.js'
import { DAEMON } from './daemon-cells.js'
import { EMBEDDED } from './embedded-cells.js'
import { ORDERS, type OrderName } from './given.js'
import { memberStage } from './member-stage.js'
import { type MemberPhaseName, PHASES, phaseOf } from './phases.js'
import { RUN } from './run-cells.js'
import { RUN_ORDERS, RUN_PHASES, type RunOrderName, type RunPhaseName, runStage } from './run-stage.js'
import type { Stage } from './stage.js'
import { WORKERS } from './workers-cells.js'
import {
  WORKERS_ORDERS,
  WORKERS_PHASES,
  type WorkersOrderName,
  type WorkersPhaseName,
  workersStage,
} from './workers-stage.js'
import type { MemberHosting } from './world.js'

interface Hosting {
  /** The heading in docs/orders.md. */
  readonly heading: string
  /** The text completes the sentence "The process …"; `heldBy` names what the hook withholds. */
  readonly phases: Readonly<Record<string, { readonly about: string; readonly heldBy?: string }>>
  readonly orders: Readonly<Record<string, { readonly about: string }>>
  readonly cells: Readonly<Record<string, Readonly<Record<string, Cell>>>>
  /** How docs/orders.md names the processes that serve, if not as for a single process. */
  readonly clients?: Readonly<Partial<Record<Sight['serves'], string>>>
  stage(phase: string, order: string): Promise<Stage>
}

function member(hosting: MemberHosting, heading: string, cells: Hosting['cells']): Hosting {
  const names = Object.keys(PHASES) as MemberPhaseName[]
  const own = names.filter(name => (phaseOf(name).only ?? hosting) === hosting)
  return {
    heading,
    phases: Object.fromEntries(own.map(name => [name, phaseOf(name)])),
    orders: ORDERS,
    cells,
    stage: (phase, order) => memberStage(hosting, phase as MemberPhaseName, order as OrderName),
  }
}

/** How the processes of a service are run, in the order of docs/orders.md. */
export const HOSTINGS: Readonly<Record<string, Hosting>> = {
  embedded: member('embedded', 'A program that uses the library', EMBEDDED),
  daemon: member('daemon', 'A program that uses the library, under a daemon', DAEMON),
  auto: {
    heading: 'A program under fd-broker/auto',
    phases: AUTO_PHASES,
    orders: AUTO_ORDERS,
    cells: AUTO,
    stage: (phase, order) => autoStage(phase as AutoPhaseName, order as AutoOrderName),
  },
  run: {
    heading: 'fd-broker run',
    phases: RUN_PHASES,
    orders: RUN_ORDERS,
    cells: RUN,
    stage: (phase, order) => runStage(phase as RunPhaseName, order as RunOrderName),
  },
  workers: {
    heading: 'The main process of workers',
    phases: WORKERS_PHASES,
    orders: WORKERS_ORDERS,
    cells: WORKERS,
    clients: { it: 'the same workers answer', other: 'another worker answers', any: 'workers answer' },
    stage: (phase, order) => workersStage(phase as WorkersPhaseName, order as WorkersOrderName),
  },
}

/** One line of docs/orders.md. */
export interface Place {
  readonly hosting: string
  readonly phase: string
  readonly order: string
}

/** Each order in each phase of each hosting. */
export function everyPlace(): Place[] {
  return Object.entries(HOSTINGS).flatMap(([hosting, { orders, phases }]) =>
    Object.keys(phases).flatMap(phase => Object.keys(orders).map(order => ({ hosting, phase, order }))),
  )
}

export function cellAt({ hosting, phase, order }: Place): Cell | undefined {
  return HOSTINGS[hosting]?.cells[phase]?.[order]
}
