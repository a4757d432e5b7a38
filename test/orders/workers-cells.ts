import { type Cell, OPEN, tested } from './cell.js'

export const WORKERS_PHASES = {
  serving: { about: 'is the main process of workers that serve' },
  replacing: { about: 'is the main process, and replaces its workers' },
  probation: { about: 'is the main process; previous workers stand by' },
  ending: { about: 'is the main process, was told to end, and its workers drain' },
} as const

export const WORKERS_ORDERS = {
  TERM: { about: 'SIGTERM' },
  INT: { about: 'SIGINT' },
  stop: { about: '`fd-broker stop`' },
  'stop --drain': { about: '`fd-broker stop --drain 1s`, or another short time' },
  upgrade: { about: '`fd-broker upgrade`' },
  set: { about: '`fd-broker workers set`' },
  reload: { about: '`fd-broker reload`' },
  status: { about: '`fd-broker status`' },
  death: { about: 'SIGKILL' },
  'death of a worker': { about: 'SIGKILL of a worker' },
  'stop of a worker': { about: 'SIGSTOP of a worker' },
} as const

type Phase = keyof typeof WORKERS_PHASES
type Order = keyof typeof WORKERS_ORDERS

const ENDS = tested(
  'ends after the last connection of its workers',
  'e2e/workers',
  'ends after the last connection of its workers',
)
const REPLACED = tested(
  'done; no client is refused',
  'e2e/workers',
  'upgrades, restarts, serves with more and with fewer, and refuses no client',
)
const ALL_OPEN = Object.fromEntries(Object.keys(WORKERS_ORDERS).map(order => [order, OPEN])) as Record<
  Order,
  Cell
>

/** Cells of the main process of workers. No driver plays them yet. */
export const WORKERS: Readonly<Record<Phase, Readonly<Record<Order, Cell>>>> = {
  serving: {
    ...ALL_OPEN,
    TERM: ENDS,
    stop: ENDS,
    'stop --drain': tested(
      'the workers end within the time; those that live 5 s longer are killed',
      'unit/workers/pool',
      'die 5 s behind the time in which they must leave',
    ),
    upgrade: REPLACED,
    set: REPLACED,
    status: REPLACED,
    reload: tested(
      'all workers reload; the answer has the refusal of one',
      'unit/workers/pool',
      'all hear of a reload, and a refusal of one is told',
    ),
    'death of a worker': tested(
      'the worker is started again; its open requests are lost, no others',
      'e2e/workers',
      'has answers of both; one that is killed starts again',
    ),
    'stop of a worker': tested(
      'the worker is replaced',
      'unit/workers/pool',
      'show together, and the first, which decides the changes of all, is replaced at once',
    ),
  },
  replacing: {
    ...ALL_OPEN,
    upgrade: tested(
      'the newest main process replaces the workers, and the one before ends',
      'e2e/workers',
      'ends when a third one takes over while it replaces workers',
    ),
    'stop of a worker': tested(
      'that worker is replaced too; clients of its listener are answered',
      'e2e/workers-hung',
      'replaces that worker too, and clients of its listener are answered meanwhile',
    ),
  },
  probation: {
    ...ALL_OPEN,
    stop: tested(
      'ends with all workers, also with those that stand by',
      'e2e/workers',
      'ends with all its workers on `fd-broker stop`, also with those that stand by in a probation',
    ),
    upgrade: tested(
      'a replacement waits for the probation, and 10 s more',
      'unit/workers/pool',
      'stay in their probation: a replacement waits for it',
    ),
  },
  ending: {
    ...ALL_OPEN,
    INT: tested('ends at once', 'e2e/workers', 'ends at once on INT, while a worker drains'),
    'stop --drain': tested(
      'the shorter time counts',
      'unit/workers/pool',
      'has no timer left if it is told again to end sooner',
    ),
  },
}
