import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { getEnvironmentData, setEnvironmentData } from 'node:worker_threads'
import { thisFile } from '../base/this-file.js'

/** Environment variable: the file for a successor's last stderr lines if it fails to start. */
export const LAST_LINES = 'FD_BROKER_LAST_LINES'
/** Environment variable: the successor's own NODE_OPTIONS, without the preload; absent if it has none. */
export const OWN_OPTIONS = 'FD_BROKER_NODE_OPTIONS'

/** Adds the preload `started.cjs` to a successor's environment. Unchanged if the library does not run from its bundle. */
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

/** Key of the record that the preload and the library, two bundles, share in a process. */
const KEY = 'fd-broker.inherited-output'
const OWN = Symbol.for(KEY)

/** State of the output that a successor inherited from the process that started it. */
interface InheritedOutput {
  /** Number of writes to stdout and stderr, in all threads, that failed because the terminal is closed or the pipe has no reader. */
  readonly dropped: number
  /** The last lines on stderr; null once the process has served, when they no longer explain a failed start. */
  lines: string | null
}

type WithInheritedOutput = { [OWN]?: InheritedOutput }

/** Returns the record, or null if this process was not started as a successor. */
export function inheritedOutput(): InheritedOutput | null {
  return (globalThis as WithInheritedOutput)[OWN] ?? null
}

/** Creates the record; called by the preload in the main thread. */
export function beginOutput(): InheritedOutput {
  const shared = new SharedArrayBuffer(4)
  const count = new Int32Array(shared)
  // Threads that start later inherit it.
  setEnvironmentData(KEY, shared)
  const output: InheritedOutput = {
    get dropped() {
      return Atomics.load(count, 0)
    },
    lines: '',
  }
  ;(globalThis as WithInheritedOutput)[OWN] = output
  return output
}

/** Returns a function that counts a dropped write, in any thread; null if this process is no successor. */
export function counter(): (() => void) | null {
  const shared: unknown = getEnvironmentData(KEY)
  if (!(shared instanceof SharedArrayBuffer)) return null
  const count = new Int32Array(shared)
  return () => Atomics.add(count, 0, 1)
}
