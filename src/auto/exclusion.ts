import type { Cluster } from 'node:cluster'
import { readFileSync } from 'node:fs'
import { isMainThread } from 'node:worker_threads'
import { workerPlace } from '../os/default-control.js'
import { ancestryOf } from '../os/main-process.js'
import { isOff } from './settings.js'

/** Environment variable: the pid of a process that has joined a service. The children of that process inherit the variable: they are not next versions. */
export const PARENT = 'FD_BROKER_AUTO_PARENT'

/** Why a process runs without fd-broker. */
export interface Exclusion {
  /** A message for the user; null if no user would expect this process to take part. */
  readonly notice: string | null
}

const QUIET: Exclusion = { notice: null }

/** Programs that listen, and are not the server: test runners, and the daemon of pm2, which starts the server. */
const OTHERS = /[\\/]node_modules[\\/](?:\.bin[\\/])?(?:pm2|vitest|jest|mocha|ava|fd-broker)\b/
/** The script by which pm2 starts a program itself. */
const STARTED_BY_PM2 = /[\\/]pm2[\\/]lib[\\/]ProcessContainer\w*\.js$/
/** Tools that restart a program when a file changes. */
const WATCHERS: readonly (readonly [RegExp, string])[] = [
  [/(?:^|[\\/])nodemon(?:\.js)?$/, 'nodemon'],
  [/(?:^|[\\/])(?:ts-)?node-dev(?:\.js)?$/, 'node-dev'],
]

/** Returns why this process does not take part; null if it does. */
export function exclusionOf(program: string | undefined, env: Readonly<NodeJS.ProcessEnv>): Exclusion | null {
  const excluded = (why: string) => ({ notice: `${why}: this process runs without upgrades` })
  if (isOff(env) || !isMainThread || program === undefined) return QUIET
  if (STARTED_BY_PM2.test(program))
    return excluded('pm2 starts this program, not fd-broker run (docs/deploy.md, pm2)')
  if (OTHERS.test(program) || env.NODE_TEST_CONTEXT !== undefined) return QUIET
  if (process.platform === 'win32') return excluded('fd-broker does not run on Windows')
  if (workerPlace(env) !== null) return excluded('a worker of fd-broker workers calls join() itself')
  const watcher = watcherOf(env)
  if (watcher !== null) return excluded(`${watcher} restarts this program when a file changes`)
  if (env[PARENT] !== undefined && env[PARENT] !== `${process.pid}`) return QUIET
  // The primary prints the notice about node:cluster.
  if (process.send !== undefined && cluster().isWorker) return QUIET
  return null
}

/** Whether this process is a node:cluster primary with workers: its servers accept connections for them. */
export function isClusterPrimary(): boolean {
  const { isPrimary, workers } = cluster()
  return isPrimary && Object.keys(workers ?? {}).length > 0
}

function cluster(): Cluster {
  // Loads nothing more than Node itself, which uses this module when a server listens.
  const found: unknown = process.getBuiltinModule('node:cluster')
  return found as Cluster
}

/** Returns the tool that restarts this process when a file changes; null if there is none. */
function watcherOf(env: Readonly<NodeJS.ProcessEnv>): string | null {
  if (env.WATCH_REPORT_DEPENDENCIES !== undefined) return 'node --watch'
  // The parent and its parent: a tool may start the program through a shell.
  let checked = 0
  for (const pid of ancestryOf(process.ppid)) {
    if (pid === 1 || checked++ === 2) return null
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
