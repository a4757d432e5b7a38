import { readdirSync, readFileSync } from 'node:fs'
import { procText } from './proc-file.js'
import { type Orders, SERVER, type Supervised } from './supervised.js'

/**
 * The damage that a client may see from a bad version:
 * - `nothing`: each request is answered rightly.
 * - `open`: the requests on connections that a process of the version had when it died are lost with it.
 * - `wrong`: the wrong answers that the version gave until the previous version replaced it.
 */
export type Seen = 'nothing' | 'open' | 'wrong'

export interface BadVersion {
  readonly kind: string
  readonly orders?: Orders
  /** The shell executes this instead of the server. */
  readonly shell?: string
  /** Instead of the health check: a child that accepts would pass it, and does not have this descriptor. */
  readonly ready?: 'fd'
  /** The fault of a version that serves: a request, or the end of its main process. Without one the version never serves. */
  readonly fault?: '/crash' | '/sick' | '/hang' | 'KILL' | 'by itself'
  readonly restart?: 'always'
  readonly seen: Seen
  /** The last failure in the status. */
  readonly says: RegExp
  readonly code: string
}

export const BAD_VERSIONS: readonly BadVersion[] = [
  {
    kind: 'exits before it is ready',
    orders: { crash: 9 },
    seen: 'nothing',
    code: 'ERR_FDB_SUCCESSOR_EXITED',
    says: /version 2 \(.*, pid \d+\) ended with code 9 before it served/,
  },
  {
    kind: 'exits after it was ready',
    fault: '/crash',
    seen: 'open',
    code: 'ERR_FDB_SUCCESSOR_EXITED',
    says: /version 2 \(.*, pid \d+\) served and ended with code 7 in its probation, \d+\.\d s after its start: the previous version is started again/,
  },
  {
    kind: 'is never ready',
    orders: { fail: true },
    seen: 'nothing',
    code: 'ERR_FDB_DEADLINE',
    says: /version 2 \(pid \d+\) was not ready within 1500 ms: GET .*\/health: 503/,
  },
  {
    kind: 'answers 500',
    fault: '/sick',
    seen: 'wrong',
    code: 'ERR_FDB_UNHEALTHY',
    says: /version 2 serves and is not healthy: GET .*\/health: 503/,
  },
  {
    kind: 'hangs',
    fault: '/hang',
    seen: 'open',
    code: 'ERR_FDB_UNHEALTHY',
    says: /version 2 serves and is not healthy: GET .*\/health: no answer within 2000 ms/,
  },
  {
    kind: 'forks and exits',
    ready: 'fd',
    orders: { leaves: { code: 1, child: { fail: true } } },
    seen: 'nothing',
    code: 'ERR_FDB_SUCCESSOR_EXITED',
    says: /ended with code 1 before it served and left 1 processes behind \(\d+\), which are ended/,
  },
  {
    kind: 'goes to the background',
    ready: 'fd',
    orders: { leaves: { code: 0, detached: true, child: { fail: true } } },
    seen: 'nothing',
    code: 'ERR_FDB_SUCCESSOR_EXITED',
    says: /ended with code 0 before it served and left 1 processes behind \(\d+\), which are ended: a program that daemonizes cannot be supervised/,
  },
  {
    kind: 'ignores TERM',
    orders: { fail: true, deaf: true },
    seen: 'open',
    code: 'ERR_FDB_DEADLINE',
    says: /version 2 \(pid \d+\) was not ready within 1500 ms: GET .*\/health: 503/,
  },
  {
    kind: 'leaves a child that accepts and ignores TERM',
    orders: { leaves: { code: null, child: { deaf: true } } },
    fault: 'KILL',
    seen: 'open',
    code: 'ERR_FDB_SUCCESSOR_EXITED',
    says: /served and ended by signal 9 in its probation, .* and left 1 processes behind \(\d+\): the previous version is started again/,
  },
  {
    kind: 'crashes in a loop',
    orders: { dies: true },
    fault: 'by itself',
    restart: 'always',
    seen: 'open',
    code: 'ERR_FDB_SUCCESSOR_EXITED',
    says: /version \d \(.*, pid \d+\) served and ended with code 7 in its probation/,
  },
  {
    kind: 'listens on a wrong port',
    orders: { elsewhere: true },
    seen: 'nothing',
    code: 'ERR_FDB_DEADLINE',
    says: /version 2 \(pid \d+\) was not ready within 1500 ms: it does not accept on descriptor 4/,
  },
  {
    kind: 'has no memory',
    shell: `ulimit -c 0; ulimit -v 400000; exec ${process.execPath} ${SERVER}`,
    seen: 'nothing',
    code: 'ERR_FDB_SUCCESSOR_EXITED',
    says: /version 2 \(.*, pid \d+\) ended (by signal|with code) \d+ before it served/,
  },
]

/** The command line of a bad version. */
export function commandOf(run: Supervised, { orders = {}, shell }: BadVersion): string[] {
  const given = `FDB_SUPERVISED=${run.orders({ ...orders, counts: true, release: 'bad' })}`
  return ['env', given, ...(shell === undefined ? [SERVER] : ['sh', '-c', shell])]
}

/** Sums the counts of the processes of bad versions: connections that were open when a process died, and wrong answers. */
export function countedBy(run: Supervised): { processes: number; open: number; wrong: number } {
  const files = readdirSync(run.sandbox.folder).filter(name => /^said\.\d+\.counts$/.test(name))
  const counts = files
    .map(name => readFileSync(`${run.sandbox.folder}/${name}`))
    .filter(({ length }) => length >= 8)
  const sum = (at: number) => counts.reduce((all, bytes) => all + bytes.readInt32LE(at), 0)
  return { processes: counts.length, open: sum(0), wrong: sum(4) }
}

/** The processes with this text in the environment that they were started with. */
export function processesWith(text: string): number[] {
  return readdirSync('/proc')
    .filter(pid => /^\d+$/.test(pid) && procText(pid, 'environ').includes(text))
    .map(Number)
}
