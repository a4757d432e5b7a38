import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { getEnvironmentData, setEnvironmentData } from 'node:worker_threads'
import { thisFile } from '../base/this-file.js'

/** A variable of the environment: the file for the last lines on stderr of a successor that does not come to serve. */
export const LAST_LINES = 'FD_BROKER_LAST_LINES'
/** The NODE_OPTIONS that the successor would have without the preload; absent: none. */
export const OWN_OPTIONS = 'FD_BROKER_NODE_OPTIONS'

/** The environment of a successor with `started.ts` preloaded; unchanged where the library does not run from its bundle. */
export function startedWith(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const preload = join(dirname(thisFile()), 'started.cjs')
  if (env[LAST_LINES] === undefined || preload.includes('"') || !existsSync(preload)) return env
  const { NODE_OPTIONS: own } = env
  const option = `--require "${preload.replaceAll('\\', '\\\\')}"`
  return {
    ...env,
    NODE_OPTIONS: own === undefined || own === '' ? option : `${option} ${own}`,
    ...(own !== undefined && { [OWN_OPTIONS]: own }),
  }
}

/** Names the record in a process: the preload and the library are two bundles. */
const KEY = 'fd-broker.inherited-output'
const OWN = Symbol.for(KEY)

/** The state of the output that a successor has inherited from the process that has started it. */
interface InheritedOutput {
  /** The number of writes to stdout and stderr, in all threads, that failed because the terminal is closed or the pipe has no reader. */
  readonly dropped: number
  /** The last lines on stderr; null: the process has come to serve, and they are no reason of a failed start. */
  lines: string | null
}

type Holder = { [OWN]?: InheritedOutput }

/** Null: this process was not started as a successor. */
export function inheritedOutput(): InheritedOutput | null {
  return (globalThis as Holder)[OWN] ?? null
}

/** By the preload alone, in the main thread. */
export function beginOutput(): InheritedOutput {
  const shared = new SharedArrayBuffer(4)
  const count = new Int32Array(shared)
  // Threads that start later have it.
  setEnvironmentData(KEY, shared)
  const output: InheritedOutput = {
    get dropped() {
      return Atomics.load(count, 0)
    },
    lines: '',
  }
  ;(globalThis as Holder)[OWN] = output
  return output
}

/** Counts a write that was dropped, in each thread of a successor; null: this is none. */
export function counter(): (() => void) | null {
  const shared: unknown = getEnvironmentData(KEY)
  if (!(shared instanceof SharedArrayBuffer)) return null
  const count = new Int32Array(shared)
  return () => Atomics.add(count, 0, 1)
}
