import { isatty } from 'node:tty'
import { executeInstead, holdSignals, openFileOf } from '../kernel/index.js'
import { OperatorClient } from '../operator.js'
import { startedAs } from '../os/command-line.js'
import { holdingVariables, maskOf } from '../os/held-signals.js'
import { mainProcess, statOf } from '../os/main-process.js'
import { canNameMainProcess } from '../os/service-manager/service-manager.js'
import { COMMAND } from './log-files.js'

const ANSWER_MS = 2_000
const SIGNALS = ['SIGINT', 'SIGTERM'] as const
const MASK = maskOf(SIGNALS)

/**
 * Keeps a retired process alive if its exit would end the successors (PID 1 of a container, main process of a unit), or if a successor in
 * another session writes to this process's terminal: Ctrl-C must still end that successor. When the program exits, a small command replaces
 * its image in the same process, so that the program itself ends without delay and holds no memory.
 */
export class Placeholder {
  readonly #control: string
  readonly #main = mainProcess(canNameMainProcess()) !== null
  #keeps = false
  /** Set while the program's own handlers run: the signal is only for them. */
  #endsProgram = false
  /** Resolves when it is decided whether the process is kept. */
  decided: Promise<void> = Promise.resolve()

  constructor(control: string) {
    this.#control = control
    process.on('exit', () => this.#exit())
  }

  /** Forwards signals to the process that serves now, until {@link stopForwarding}. */
  markReplaced(): void {
    if (!this.#main && !hasTerminal()) return
    this.#keeps = true
    // A signal that arrives now waits for the decision.
    for (const signal of SIGNALS) process.prependListener(signal, this.#forward)
    this.decided = this.#decide()
  }

  async #decide(): Promise<void> {
    const serves = await this.#servingPid()
    if (serves === null || !(this.#main || writesToOurTerminal(serves))) this.stop()
  }

  /**
   * Calls the program's own handlers of SIGTERM; returns false if there are none. Signals are still forwarded: libuv drops a pending signal
   * when its last listener is removed.
   */
  endProgram(): boolean {
    const passing = process.listeners('SIGTERM').includes(this.#forward) ? 1 : 0
    if (process.listenerCount('SIGTERM') === passing) return false
    this.#endsProgram = true
    try {
      process.emit('SIGTERM', 'SIGTERM')
    } finally {
      this.#endsProgram = false
    }
    return true
  }

  /** Stops keeping the process: it serves again, or the service has ended. */
  stop(): void {
    this.#keeps = false
    this.stopForwarding()
  }

  stopForwarding(): void {
    for (const signal of SIGNALS) process.off(signal, this.#forward)
  }

  readonly #forward = (signal: NodeJS.Signals): void => {
    if (this.#endsProgram) return
    void this.decided.then(async () => {
      const serves = this.#keeps ? await this.#servingPid() : process.pid
      // The program's own handler got the signal.
      if (serves === process.pid && process.listenerCount(signal) > 0) return
      try {
        if (serves !== null) process.kill(serves, signal)
      } catch {
        // The process has just ended.
      }
    })
  }

  /** Returns the pid of the serving process; null if none other serves, or it has no pid here. */
  async #servingPid(): Promise<number | null> {
    try {
      using client = await OperatorClient.connect(this.#control, { timeout: ANSWER_MS })
      const answer = await client.status({ timeout: ANSWER_MS })
      if (client.inOtherPidNamespace || !('pid' in answer) || answer.pid === process.pid) return null
      return answer.pid ?? null
    } catch {
      return null
    }
  }

  #exit(): void {
    if (!this.#keeps) return
    const words = ['keep', '--control', this.#control, ...(this.#main ? ['--main'] : [])]
    const env: NodeJS.ProcessEnv = { ...startedAs.env }
    delete env.NODE_OPTIONS
    // Blocks the signals until the command has its handlers: a signal before that would end it, or be lost for PID 1.
    const holding = holdingVariables(MASK)
    try {
      if (holding !== null) holdSignals(MASK)
      const start = { file: process.execPath, cwd: '/', argv: ['node', COMMAND, ...words] }
      executeInstead({ ...start, env: { ...env, ...holding } }, [])
    } catch {
      // The process ends as it would without this.
    }
  }
}

/** Whether this process has a terminal, and gets its Ctrl-C. */
function hasTerminal(): boolean {
  return (statOf(process.pid)?.terminal ?? 0) !== 0
}

function writesToOurTerminal(pid: number): boolean {
  if (statOf(pid)?.session === statOf(process.pid)?.session) return false
  const ours = [0, 1, 2].filter(isatty).flatMap(fd => openFileOf(process.pid, fd) ?? [])
  return [1, 2].some(fd => ours.includes(openFileOf(pid, fd) ?? ''))
}
