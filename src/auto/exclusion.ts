import type { Cluster } from 'node:cluster'
import { readFileSync } from 'node:fs'
import { isMainThread } from 'node:worker_threads'
import { workerPlace } from '../os/default-control.js'
import { ancestryOf } from '../os/main-process.js'
import { isOff } from './settings.js'

/**
 * Environment variable: the process that has joined a service. Its children inherit it: they are parts of that program, not next versions.
 */
export const PARENT = 'FD_BROKER_AUTO_PARENT'

/** Why a process runs without fd-broker, as a notice for the user; null if no user would expect it to take part. */
export interface Exclusion {
  readonly notice: string | null
}

const QUIET: Exclusion = { notice: null }

/** Tools that start programs: the service is that of the started program. */
const TOOLS =
  /[\\/]node_modules[\\/](?:\.bin[\\/])?(?:npm|npx|yarn|pnpm|corepack|tsx|ts-node|nodemon|node-dev|ts-node-dev|pm2|vitest|jest|mocha|ava|c8|nyc|fd-broker)\b/
/** Parent processes that restart a program when a file changes. */
const WATCHERS: readonly (readonly [RegExp, string])[] = [
  [/(?:^|[\\/])nodemon(?:\.js)?$/, 'nodemon'],
  [/(?:^|[\\/])(?:ts-)?node-dev(?:\.js)?$/, 'node-dev'],
]

/** Returns null if the process takes part. */
export function exclusionOf(program: string | undefined, env: Readonly<NodeJS.ProcessEnv>): Exclusion | null {
  const aloud = (why: string) => ({ notice: `${why}: this process runs without upgrades` })
  if (isOff(env) || !isMainThread || program === undefined) return QUIET
  if (TOOLS.test(program) || env.NODE_TEST_CONTEXT !== undefined) return QUIET
  if (process.platform === 'win32') return aloud('fd-broker does not run on Windows')
  if (workerPlace(env) !== null) return aloud('a worker of fd-broker workers calls join() itself')
  const watcher = watcherOf(env)
  if (watcher !== null) return aloud(`${watcher} restarts this program when a file changes`)
  if (env[PARENT] !== undefined && env[PARENT] !== `${process.pid}`) return QUIET
  // In node:cluster the primary prints the notice; a worker stays quiet.
  if (process.send !== undefined && cluster().isWorker) return QUIET
  return null
}

/**
 * Whether this process is a node:cluster primary with workers: its servers belong to them. Node itself loads the module when a
 * server listens.
 */
export function isClusterPrimary(): boolean {
  const { isPrimary, workers } = cluster()
  return isPrimary && Object.keys(workers ?? {}).length > 0
}

function cluster(): Cluster {
  const found: unknown = process.getBuiltinModule('node:cluster')
  return found as Cluster
}

/** Returns the tool that restarts this process at each edit; null if none is found. */
function watcherOf(env: Readonly<NodeJS.ProcessEnv>): string | null {
  if (env.WATCH_REPORT_DEPENDENCIES !== undefined) return 'node --watch'
  // A shell may stand between a watcher and its program.
  let looks = 0
  for (const pid of ancestryOf(process.ppid)) {
    if (pid === 1 || looks++ === 2) return null
    const words = wordsOf(pid)
    for (const [pattern, name] of WATCHERS) if (words.some(word => pattern.test(word))) return name
    if (words.includes('watch') && words.some(word => /(?:^|[\\/])tsx(?:[\\/].*)?$/.test(word)))
      return 'tsx watch'
  }
  return null
}

function wordsOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1').split('\0').slice(0, 6)
  } catch {
    return []
  }
}
