import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { getEnvironmentData, setEnvironmentData } from 'node:worker_threads'
import { pathForOthers, thisFile } from './lazy.js'

/** Environment variable: the file in which a successor writes why it ends before it joins. Removed for its children. */
export const LAST_WORDS = 'FD_BROKER_LAST_WORDS'
/** Environment variable: the file to which a successor writes its last stderr lines if it ends before it serves. */
export const LAST_LINES = 'FD_BROKER_LAST_LINES'
/** Environment variable: the successor's own NODE_OPTIONS, without the preload; absent if it has none. */
export const OWN_OPTIONS = 'FD_BROKER_NODE_OPTIONS'

/** The file to which a successor writes the step that it has not completed. The file exists while the process that has started the successor waits. */
export function stepFile(lastWords: string): string {
  return `${lastWords}.step`
}

/** Whether a version waits for a next version that it has started with this environment: the current process, or a tool that has started it. */
export function isAwaited({ [LAST_WORDS]: file }: Readonly<NodeJS.ProcessEnv>): boolean {
  return file !== undefined && existsSync(stepFile(file))
}

/** Adds the preload `started.cjs` to a successor's NODE_OPTIONS. Does nothing if the library runs without its bundles, as in tests. */
export function startedWith(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const preload = pathForOthers(join(dirname(thisFile()), 'started.cjs'))
  if (env[LAST_LINES] === undefined || preload.includes('"') || !existsSync(preload)) return env
  const { NODE_OPTIONS: own } = env
  const option = `--require "${preload.replaceAll('\\', '\\\\')}"`
  return {
    ...env,
    NODE_OPTIONS: own === undefined || own === '' ? option : `${option} ${own}`,
    ...(own !== undefined && { [OWN_OPTIONS]: own }),
  }
}

/** Key of the record that the preload and the library share in a process: they are separate bundles. */
const KEY = 'fd-broker.inherited-output'
const OWN = Symbol.for(KEY)

/** State of a successor's stdout and stderr, which it inherited from the process that started it. */
interface InheritedOutput {
  /** Number of writes to stdout and stderr, in all threads, that failed because the terminal is closed or the pipe has no reader. */
  readonly dropped: number
  /** The last lines on stderr. Null when the process has served: it did not fail to start. */
  lines: string | null
}

type WithInheritedOutput = { [OWN]?: InheritedOutput }

/** Returns the state of this process's output; null if it was not started as a successor. */
export function inheritedOutput(): InheritedOutput | null {
  return (globalThis as WithInheritedOutput)[OWN] ?? null
}

/** Adds a line to the last lines on stderr. For lines that are written to the descriptor, which the preload does not see. */
export function rememberLine(line: string): void {
  const output = inheritedOutput()
  if (output !== null && output.lines !== null) output.lines += `${line}\n`
}

/** Creates the state. Called by the preload in the main thread. */
export function beginOutput(): InheritedOutput {
  const shared = new SharedArrayBuffer(4)
  const count = new Int32Array(shared)
  // Threads that start later get the counter.
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

/** Returns a function that counts a dropped write, for the current thread. Null if this process was not started as a successor. */
export function counter(): (() => void) | null {
  const shared: unknown = getEnvironmentData(KEY)
  if (!(shared instanceof SharedArrayBuffer)) return null
  const count = new Int32Array(shared)
  return () => Atomics.add(count, 0, 1)
}
