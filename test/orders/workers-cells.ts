import { type Cell, played, tested } from './cell.js'
import type { WorkersOrderName, WorkersPhaseName } from './workers-stage.js'

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
/** Cells of the main process of workers. */
export const WORKERS: Readonly<Record<WorkersPhaseName, Readonly<Record<WorkersOrderName, Cell>>>> = {
  serving: {
    INT: played('done ended none'),
    death: played('done ended it'),
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
    TERM: played('done ended none > done ended none'),
    INT: played('done ended none > done ended none'),
    stop: played('done ended none > done ended none'),
    'stop --drain': played('done ended none > done ended none'),
    set: played('waits replacing it > done working other'),
    reload: played('waits replacing it > done working other'),
    status: played('done replacing it > done working other'),
    death: played('done ended it > done ended it'),
    'death of a worker': played('done replacing any > done working other'),
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
    TERM: played('done ended none'),
    INT: played('done ended none'),
    'stop --drain': played('done ended none'),
    set: played('done probation it'),
    reload: played('done probation it'),
    status: played('done probation it'),
    death: played('done ended any'),
    'death of a worker': played('done probation other'),
    'stop of a worker': played('done probation other > done probation any'),
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
    TERM: played('done draining none > done ended none'),
    stop: played('done draining none > done ended none'),
    upgrade: played('ERR_FDB_CLOSED draining none > ERR_FDB_CLOSED ended none'),
    set: played('ERR_FDB_CLOSED draining none > ERR_FDB_CLOSED ended none'),
    reload: played('ERR_FDB_CLOSED draining none > ERR_FDB_CLOSED ended none'),
    status: played('done draining none > done ended none'),
    death: played('done ended none > done ended none'),
    'death of a worker': played('done ended none > done ended none'),
    'stop of a worker': played('done draining none > done ended none'),
    INT: tested('ends at once', 'e2e/workers', 'ends at once on INT, while a worker drains'),
    'stop --drain': tested(
      'the shorter time counts, also for workers that drain already',
      'e2e/workers',
      'a shorter time to end, ordered later, counts for a worker that drains already',
    ),
  },
}
