import { isatty } from 'node:tty'
import { executeInstead, holdSignals, openFileOf, trySignal } from '../kernel/index.js'
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
 * another session writes to this process's terminal: Ctrl-C must still end that successor. When the program exits, the small command
 * `fd-broker keep` replaces it in the same process (execve), so that the program still ends at once and its memory is free.
 */
export class Placeholder {
  readonly #control: string
  readonly #main = mainProcess(canNameMainProcess()) !== null
  #keeps = false
  /** True while {@link endProgram} calls the program's own handlers: the signal is only for them. */
  #endsProgram = false
  /** Resolves when this class has decided whether to keep the process. */
  decided: Promise<void> = Promise.resolve()

  constructor(control: string) {
    this.#control = control
    process.on('exit', () => this.#exit())
  }

  /** Called when another process serves. If this process must be kept, forwards signals to the serving one, until {@link stopForwarding}. */
  markReplaced(): void {
    if (!this.#main && !hasTerminal()) return
    this.#keeps = true
    // A signal that arrives before the decision waits for it.
    for (const signal of SIGNALS) process.prependListener(signal, this.#forward)
    this.decided = this.#decide()
  }

  async #decide(): Promise<void> {
    const serves = await this.#servingPid()
    if (serves === null || !(this.#main || writesToOurTerminal(serves))) this.stop()
  }

  /**
   * Calls the program's own handlers of SIGTERM; returns false if there are none. Forwarding continues: libuv drops a pending signal when its
   * last listener is removed.
   */
  endProgram(): boolean {
    if (!process.listeners('SIGTERM').some(listener => listener !== this.#forward)) return false
    this.#endsProgram = true
    try {
      process.emit('SIGTERM', 'SIGTERM')
    } finally {
      this.#endsProgram = false
    }
    return true
  }

  /** Lets the process end with its program: it serves again, or the service has ended. */
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
      // This process serves, and the program's own handler has received the signal.
      if (serves === process.pid && process.listenerCount(signal) > 0) return
      if (serves !== null) trySignal(serves, signal)
    })
  }

  /** Returns the pid of the serving process; null if no other process serves, or if it is in another PID namespace. */
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
    // Blocks the signals until the command has its handlers: before that a signal would end the command, or be lost if this is PID 1.
    const holding = holdingVariables(MASK)
    try {
      if (holding !== null) holdSignals(MASK)
      const start = { file: process.execPath, cwd: '/', argv: ['node', COMMAND, ...words] }
      executeInstead({ ...start, env: { ...env, ...holding } }, [])
    } catch {
      // The process ends, as without a placeholder.
    }
  }
}

/** Whether this process has a controlling terminal, so that Ctrl-C there sends SIGINT to it. */
function hasTerminal(): boolean {
  return (statOf(process.pid)?.terminal ?? 0) !== 0
}

function writesToOurTerminal(pid: number): boolean {
  if (statOf(pid)?.session === statOf(process.pid)?.session) return false
  const ours = [0, 1, 2].filter(isatty).flatMap(fd => openFileOf(process.pid, fd) ?? [])
  return [1, 2].some(fd => ours.includes(openFileOf(pid, fd) ?? ''))
}
