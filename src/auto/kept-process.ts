import { constants } from 'node:os'
import { isatty } from 'node:tty'
import { FdbError } from '../errors.js'
import {
  executeInstead,
  hasEnded,
  holdSignals,
  type OwnedFd,
  openFileOf,
  type SignalWatch,
  trySignal,
  trySignalTo,
  watchSignal,
} from '../kernel/index.js'
import { askServing, type Serving } from '../operator/serving.js'
import { startedAs } from '../os/command-line.js'
import { holdingVariables, KEEP_MASK, WAITS } from '../os/held-signals.js'
import { pidfdOfLiving } from '../os/liveness.js'
import { mainProcess, processStat } from '../os/main-process.js'
import { canNameMainProcess } from '../os/service-manager/service-manager.js'
import { endBy } from './end-by.js'
import { COMMAND } from './log-files.js'
import { messageOf, print } from './stderr.js'

const SIGNALS = ['SIGINT', 'SIGTERM'] as const

/**
 * Keeps a retired process alive if its exit would end the successors (PID 1 of a container, main process of a unit), or if a successor in
 * another session writes to this process's terminal: Ctrl-C must still end that successor. When the program exits, the small command
 * `fd-broker keep` replaces it in the same process (execve), so that the program still ends at once and its memory is free.
 */
export class KeptProcess {
  readonly #control: string
  readonly #main: boolean
  /** Identifies the replacement since which this process is kept; null if it is not. After an `await` another one may have come. */
  #kept: symbol | null = null
  /** Signals are forwarded. */
  readonly #watches = new Map<NodeJS.Signals, SignalWatch>()
  /** Signals that have arrived and not yet reached the process that serves. */
  readonly #passing = new Set<NodeJS.Signals>()
  /** The process that served when this one decided to stay. */
  #served: { readonly pid: number; readonly pidfd: OwnedFd } | null = null
  /** Resolves when this class has decided whether to keep the process. */
  decided: Promise<void> = Promise.resolve()

  /** `main`: the successors would end with this process. */
  constructor(control: string, main = mainProcess(canNameMainProcess()) !== null) {
    this.#control = control
    this.#main = main
  }

  get keeps(): boolean {
    return this.#kept !== null
  }

  /** Called when another process serves. If this process must be kept, forwards signals to the serving one, until {@link stopForwarding}. */
  markReplaced(): void {
    if (!this.#main && !hasTerminal()) return
    const kept = Symbol('kept')
    this.#kept = kept
    // A signal that arrives before the decision waits for it.
    for (const signal of SIGNALS)
      this.#watches.set(
        signal,
        watchSignal(signal, own => this.#onSignal(signal, own)),
      )
    this.decided = this.#decide(kept)
  }

  async #decide(kept: symbol): Promise<void> {
    const serving = await askServing(this.#control)
    // This process has served again, and may have been replaced once more: that replacement has a decision of its own.
    if (this.#kept !== kept) return
    // A process that does not answer may serve: fd-broker keep asks again.
    if (FdbError.is(serving) && this.#main) return
    const pid = otherPid(serving)
    if (pid === null || !(this.#main || writesToOurTerminal(pid))) {
      this.stop()
      return
    }
    const pidfd = pidfdOfLiving(pid)
    if (pidfd !== null) this.#served = { pid, pidfd }
  }

  /** Calls the program's own handlers of SIGTERM; returns false if there are none. */
  endProgram(): boolean {
    return process.emit('SIGTERM', 'SIGTERM')
  }

  /** Lets the process end with its program: it serves again, or the service has ended. */
  stop(): void {
    this.#kept = null
    this.#served?.pidfd.close()
    this.#served = null
    this.stopForwarding()
  }

  stopForwarding(): void {
    const watches = [...this.#watches.values()]
    this.#watches.clear()
    for (const watch of watches) watch.close()
  }

  #onSignal(signal: NodeJS.Signals, own: boolean): void {
    const handled = process.listenerCount(signal) > 0
    if (own) {
      // A handler of the program has cleaned up, removed itself and sent the signal again, to end this process. The service goes on.
      if (!handled) process.exit(128 + constants.signals[signal])
      return
    }
    void this.passOn(signal, handled)
  }

  /** Passes a signal on to the process that serves; if this one does not stay for others, carries out the default action, unless `handled`. */
  async passOn(signal: NodeJS.Signals, handled = false): Promise<void> {
    this.#passing.add(signal)
    for (;;) {
      await this.decided
      const kept = this.#kept
      const serving = kept === null ? null : await askServing(this.#control)
      if (this.#kept !== kept) continue
      this.#passing.delete(signal)
      if (kept === null) {
        if (!handled) endBy(signal)
      } else this.#signal(serving, signal)
      return
    }
  }

  /** Signals the process that serves. If no process has answered, it is the one that served before. */
  #signal(serving: Serving, signal: NodeJS.Signals): void {
    const pid = otherPid(serving)
    if (pid !== null) trySignal(pid, signal)
    else if (FdbError.is(serving) && this.#served !== null)
      trySignalTo(this.#served.pidfd, constants.signals[signal])
  }

  /** Called when the process exits. If it is kept, does not return. */
  exits(): void {
    if (this.#kept === null) return
    const words = ['keep', '--control', this.#control, ...(this.#main ? ['--main'] : [])]
    const env: NodeJS.ProcessEnv = { ...startedAs.env }
    delete env.NODE_OPTIONS
    // Blocks the signals until the command has its handlers: before that a signal would end the command, or be lost if this is PID 1.
    const holding = holdingVariables(KEEP_MASK)
    // The command waits without Node from the start: a tool that has started this process may kill it if a signal is not obeyed while Node starts.
    const served = this.#served
    if (holding !== null && served !== null && !hasEnded(served.pidfd)) holding[WAITS] = `${served.pid}`
    try {
      if (holding !== null) {
        holdSignals(KEEP_MASK)
        // The event loop does not turn again, so it would drop a signal that has just arrived or is being passed on: the command gets it. A signal that
        // this process has sent to itself was to end this process only.
        for (const [signal, watch] of this.#watches)
          if (watch.isDue || this.#passing.has(signal)) process.kill(process.pid, signal)
      }
      const start = { file: process.execPath, cwd: '/', argv: ['node', COMMAND, ...words] }
      executeInstead({ ...start, env: { ...env, ...holding } }, [])
    } catch (error) {
      print(
        `this process could not become fd-broker keep, and ends: the program that serves may end with it (${messageOf(error)})`,
      )
    }
  }
}

/** Returns the pid of another process that serves; null if there is none, or this process cannot see it. */
function otherPid(serving: Serving): number | null {
  if (serving === null || FdbError.is(serving) || serving.pid === process.pid) return null
  return serving.pid
}

/** Whether this process has a controlling terminal, so that Ctrl-C there sends SIGINT to it. */
function hasTerminal(): boolean {
  return (processStat(process.pid)?.terminal ?? 0) !== 0
}

function writesToOurTerminal(pid: number): boolean {
  if (processStat(pid)?.session === processStat(process.pid)?.session) return false
  const ours = [0, 1, 2].filter(isatty).flatMap(fd => openFileOf(process.pid, fd) ?? [])
  return [1, 2].some(fd => ours.includes(openFileOf(pid, fd) ?? ''))
}
