import type { ChildProcess, StdioOptions } from 'node:child_process'
import type { Socket } from 'node:net'
import { constants } from 'node:os'
import { type ChildStart, socketOver, socketPair } from '../kernel/index.js'
import type { Question } from './question.js'

const SHELL = '/bin/sh'
/** How long the output of a command is awaited after its end: its children may keep the output open. */
const OUTPUT_MS = 100
/** The shell's own exit code for a command that it cannot start. */
const COULD_NOT_START = 126
/** Sends output and errors to descriptor 3. */
const TO_US = 'exec 1>&3 2>&3 3>&-\n'

/** A running `sh -c`. */
export interface Shell {
  /** Kills the shell and its process group. Does nothing after its end. */
  kill(): void
}

/**
 * Starts `sh -c text`. `output` gets what it writes to its output and error stream, `ended` is called once: with its exit code, or 128
 * and the number of the signal that ended it. Throws when it cannot be started.
 */
export type StartShell = (
  text: string,
  events: { output(bytes: Buffer): void; ended(code: number): void },
) => Shell

/** Starts children and kills them: of a process that reaps every child itself, where Node must not start any. */
export interface Starts {
  start(start: ChildStart, ended: (code: number) => void): number
  kill(pid: number): void
}

/** Starts `sh -c text` in a session of its own. Throws, or emits 'error', if that is impossible. */
export function spawnShell(text: string, env: NodeJS.ProcessEnv, stdio: StdioOptions): ChildProcess {
  const { spawn } = process.getBuiltinModule('node:child_process')
  return spawn(SHELL, ['-c', text], { env, stdio, detached: true })
}

/** A shell that Node starts, with these variables over our own. */
export function nodeShell(env: NodeJS.ProcessEnv): StartShell {
  return (text, { output, ended }) => {
    const child = spawnShell(text, { ...process.env, ...env }, ['ignore', 'pipe', 'pipe'])
    // Node makes none if it runs out of descriptors.
    const streams = [child.stdout, child.stderr].filter(stream => stream != null)
    for (const stream of streams) stream.on('data', output)
    let over = false
    child.once('exit', () => {
      over = true
      setTimeout(() => {
        for (const stream of streams) stream.destroy()
      }, OUTPUT_MS)
    })
    child.once('close', (code, signal) => ended(code ?? 128 + constants.signals[signal!]))
    child.once('error', error => {
      over = true
      output(Buffer.from(error.message))
      ended(COULD_NOT_START)
    })
    return {
      kill() {
        // Not reaped yet: its number is still its own, and its group's.
        if (over || child.pid === undefined) return
        try {
          process.kill(-child.pid, 'SIGKILL')
        } catch {
          // It has become another user's.
        }
      },
    }
  }
}

/** A shell that `children` starts and reaps. It ends with this process. */
export function childShell(children: Starts, cwd: string, env: NodeJS.ProcessEnv): StartShell {
  return (text, { output, ended }) => {
    const [own, theirs] = socketPair('output of a command')
    let said: Socket | undefined
    try {
      const argv = ['sh', '-c', TO_US + text]
      const deathSignal = constants.signals.SIGKILL
      const pid = children.start({ file: SHELL, cwd, argv, env, fds: [theirs], deathSignal }, code => {
        if (said === undefined || said.closed) return ended(code)
        said.once('close', () => ended(code))
        setTimeout(() => said?.destroy(), OUTPUT_MS)
      })
      said = socketOver(own, {})
        .on('data', output)
        .on('error', () => {})
      return { kill: () => children.kill(pid) }
    } catch (error) {
      own.close()
      throw error
    } finally {
      theirs.close()
    }
  }
}

/** Length of the end of a command's output that is kept. */
const KEPT_CHARACTERS = 1024

/** Whether a line of the shell ends with 0. */
export function commandQuestion(text: string, start: StartShell): Question {
  return {
    asked: `command "${text}"`,
    ask: signal =>
      new Promise((resolve, reject) => {
        signal.throwIfAborted()
        let kept = ''
        let shell: Shell | undefined
        const over = () => {
          shell?.kill()
          reject(signal.reason)
        }
        shell = start(text, {
          output: bytes => {
            kept = (kept + bytes.toString('latin1')).slice(-KEPT_CHARACTERS)
          },
          ended: code => {
            signal.removeEventListener('abort', over)
            const line = Buffer.from(kept, 'latin1').toString().trimEnd().split('\n').at(-1)?.trim()
            resolve(code === 0 ? null : `ended with ${code}${line ? ` (${line})` : ''}`)
          },
        })
        signal.addEventListener('abort', over, { once: true })
      }),
  }
}
