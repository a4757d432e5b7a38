import { readlinkSync } from 'node:fs'
import { isatty } from 'node:tty'
import { executeInstead, holdSignals } from '../kernel/index.js'
import { OperatorClient } from '../operator.js'
import { startedAs } from '../os/command-line.js'
import { holdingVariables, maskOf } from '../os/held-signals.js'
import { mainProcess, statOf } from '../os/main-process.js'
import { namesMain } from '../os/service-manager/service-manager.js'
import { COMMAND } from './log-files.js'

const ANSWER_MS = 2_000
const SIGNALS = ['SIGINT', 'SIGTERM'] as const
const MASK = maskOf(SIGNALS)

/**
 * Keeps the place of a process that is replaced if its end would be the end of its successors (PID 1 of a container, the main process of a
 * unit), or if its successor has a session of its own and writes to this process's terminal, where Ctrl-C is to end it. A small command takes
 * the place: the program's own end is not held up, and nothing of it stays.
 */
export class Placeholder {
  readonly #control: string
  readonly #main = mainProcess(namesMain()) !== null
  #keeps = false
  /** The program's own handlers run: the signal is for them alone. */
  #ends = false
  /** Resolves when it is known whether the place is kept. */
  decided: Promise<void> = Promise.resolve()

  constructor(control: string) {
    this.#control = control
    process.on('exit', () => this.#exit())
  }

  /** Another process serves: signals to this one go on to that, until {@link stopPassing}. */
  replaced(): void {
    if (!this.#main && !hasTerminal()) return
    this.#keeps = true
    // A signal that comes now waits for the decision.
    for (const signal of SIGNALS) process.prependListener(signal, this.#pass)
    this.decided = this.#decide()
  }

  async #decide(): Promise<void> {
    const serves = await this.#serving()
    if (serves === null || !(this.#main || writesToOurTerminal(serves))) this.stop()
  }

  /** Calls the program's own handlers of SIGTERM. False: it has none. Signals go on being passed: libuv drops one whose last listener goes. */
  endProgram(): boolean {
    const passing = process.listeners('SIGTERM').includes(this.#pass) ? 1 : 0
    if (process.listenerCount('SIGTERM') === passing) return false
    this.#ends = true
    try {
      process.emit('SIGTERM', 'SIGTERM')
    } finally {
      this.#ends = false
    }
    return true
  }

  /** This process serves again, or the service has ended with it. */
  stop(): void {
    this.#keeps = false
    this.stopPassing()
  }

  /** A signal is the program's own. */
  stopPassing(): void {
    for (const signal of SIGNALS) process.off(signal, this.#pass)
  }

  readonly #pass = (signal: NodeJS.Signals): void => {
    if (this.#ends) return
    void this.decided.then(async () => {
      const serves = this.#keeps ? await this.#serving() : process.pid
      // The program's own handler has heard of it.
      if (serves === process.pid && process.listenerCount(signal) > 0) return
      try {
        if (serves !== null) process.kill(serves, signal)
      } catch {
        // It has just ended.
      }
    })
  }

  /** Null: no other process serves, or none that has a number here. */
  async #serving(): Promise<number | null> {
    try {
      using client = await OperatorClient.connect(this.#control, { timeout: ANSWER_MS })
      const answer = await client.status({ timeout: ANSWER_MS })
      if (client.elsewhere || !('pid' in answer) || answer.pid === process.pid) return null
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
    // One that comes before the command has its handlers would end it, or, PID 1, would be lost: it waits for them.
    const holding = holdingVariables(MASK)
    try {
      if (holding !== null) holdSignals(MASK)
      const start = { file: process.execPath, cwd: '/', argv: ['node', COMMAND, ...words] }
      executeInstead({ ...start, env: { ...env, ...holding } }, [])
    } catch {
      // The process ends, as it would without this.
    }
  }
}

/** Ctrl-C there reaches this process. */
function hasTerminal(): boolean {
  return (statOf(process.pid)?.terminal ?? 0) !== 0
}

function writesToOurTerminal(pid: number): boolean {
  if (statOf(pid)?.session === statOf(process.pid)?.session) return false
  const ours = new Set([0, 1, 2].filter(isatty).map(fd => target(process.pid, fd)))
  return [1, 2].some(fd => ours.has(target(pid, fd)))
}

function target(pid: number, stream: number): string {
  try {
    return readlinkSync(`/proc/${pid}/fd/${stream}`)
  } catch {
    return ''
  }
}
