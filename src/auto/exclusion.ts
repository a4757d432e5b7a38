import type { Cluster } from 'node:cluster'
import { readFileSync } from 'node:fs'
import { isMainThread } from 'node:worker_threads'
import { workerPlace } from '../os/default-control.js'
import { lineOf } from '../os/main-process.js'

/** Names the process with a service whose children inherit the variable: they are parts of the program, and no next versions of it. */
export const PARENT = 'FD_BROKER_AUTO_PARENT'

/** Why a process is left alone; `said`: its user should hear of it. */
export interface Exclusion {
  readonly why: string
  readonly said: boolean
}

/** Commands that start programs: the service is that of what they start. */
const TOOLS =
  /[\\/]node_modules[\\/](?:\.bin[\\/])?(?:npm|npx|yarn|pnpm|corepack|tsx|ts-node|nodemon|node-dev|ts-node-dev|pm2|vitest|jest|mocha|ava|c8|nyc|fd-broker)\b/
/** Parents that start a program anew whenever one of its files changes. */
const WATCHERS: readonly (readonly [RegExp, string])[] = [
  [/(?:^|[\\/])nodemon(?:\.js)?$/, 'nodemon'],
  [/(?:^|[\\/])(?:ts-)?node-dev(?:\.js)?$/, 'node-dev'],
]

/** Null: the process takes part. */
export function exclusionOf(program: string | undefined, env: Readonly<NodeJS.ProcessEnv>): Exclusion | null {
  const quiet = (why: string) => ({ why, said: false })
  const aloud = (why: string) => ({ why: `${why}: this process runs as without fd-broker`, said: true })
  if (env.FD_BROKER_AUTO === 'off') return quiet('FD_BROKER_AUTO=off')
  if (!isMainThread) return quiet('a worker thread')
  if (program === undefined) return quiet('there is no program')
  if (TOOLS.test(program) || env.NODE_TEST_CONTEXT !== undefined) return quiet('a tool')
  if (process.platform === 'win32') return aloud('fd-broker does not run on Windows')
  if (workerPlace(env) !== null) return aloud('a worker of fd-broker workers calls join() itself')
  const watcher = watcherOf(env)
  if (watcher !== null) return aloud(`${watcher} restarts this program when a file changes`)
  if (env[PARENT] !== undefined && env[PARENT] !== `${process.pid}`)
    return quiet(`a child of ${env[PARENT]}, which has the service`)
  // The primary says it.
  if (process.send !== undefined && cluster().isWorker) return quiet('a worker of node:cluster')
  return null
}

/** Servers of this process are for its workers. Node loads the module itself when a server listens. */
export function isClusterPrimary(): boolean {
  const { isPrimary, workers } = cluster()
  return isPrimary && Object.keys(workers ?? {}).length > 0
}

function cluster(): Cluster {
  const found: unknown = process.getBuiltinModule('node:cluster')
  return found as Cluster
}

/** The tool that restarts this process at each edit; null: none is seen. */
function watcherOf(env: Readonly<NodeJS.ProcessEnv>): string | null {
  if (env.WATCH_REPORT_DEPENDENCIES !== undefined) return 'node --watch'
  // Between a watcher and its program there may be a shell.
  let looks = 0
  for (const pid of lineOf(process.ppid)) {
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
