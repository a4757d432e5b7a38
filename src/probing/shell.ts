import type { StdioOptions } from 'node:child_process'
import type { Socket } from 'node:net'
import { constants } from 'node:os'
import { type ChildStart, type ProgramStart, socketOver, socketPair, trySignal } from '../kernel/index.js'
import type { HealthCheck } from './health-check.js'

const SHELL = '/bin/sh'
/** Time to read the output after the shell has ended: its children may keep the output open. */
const OUTPUT_MS = 100
/** The shell's exit code for a command that it cannot start. */
const COULD_NOT_START = 126
/** Redirects stdout and stderr to descriptor 3. */
const REDIRECT = 'exec 1>&3 2>&3 3>&-\n'

export interface Shell {
  /** Kills the shell and its process group. Does nothing after the shell has ended. */
  kill(): void
}

/**
 * Starts `sh -c text`. Calls `output` with bytes of stdout and stderr, and `ended` once: with the exit code, or 128 plus the number of the
 * signal that killed the shell. If the shell cannot be started, throws or calls `ended` with 126.
 */
export type StartShell = (
  text: string,
  events: { output(bytes: Buffer): void; ended(code: number): void },
) => Shell

/** Starts and kills children of a process that reaps all its children itself, as `fd-broker run` does. Such a process must not use `child_process`. */
export interface ChildStarter {
  start(start: ChildStart, ended: (code: number) => void): number
  kill(pid: number): void
}

/** The program of `sh -c text`, in this process's folder. */
export function shellStart(text: string, env: NodeJS.ProcessEnv): ProgramStart {
  return { file: SHELL, cwd: '', argv: ['sh', '-c', text], env }
}

/** Starts shells through Node, with this process's environment, in which `env` replaces variables. */
export function nodeShell(env: NodeJS.ProcessEnv): StartShell {
  return (text, { output, ended }) => {
    const { spawn } = process.getBuiltinModule('node:child_process')
    const stdio: StdioOptions = ['ignore', 'pipe', 'pipe']
    const child = spawn(SHELL, ['-c', text], { env: { ...process.env, ...env }, stdio, detached: true })
    // Node creates no streams if the process has reached its limit of open files.
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
        // Until Node has reaped the child, no other process or group can get its pid.
        if (!over && child.pid !== undefined) trySignal(-child.pid, 'SIGKILL')
      },
    }
  }
}

/** Starts shells through `children`. The kernel kills a shell when this process ends. */
export function childShell(children: ChildStarter, cwd: string, env: NodeJS.ProcessEnv): StartShell {
  return (text, { output, ended }) => {
    const [own, theirs] = socketPair('output of a command')
    let outputSocket: Socket | undefined
    let isOver = false
    try {
      const argv = ['sh', '-c', REDIRECT + text]
      const deathSignal = constants.signals.SIGKILL
      const pid = children.start({ file: SHELL, cwd, argv, env, fds: [theirs], deathSignal }, code => {
        isOver = true
        if (outputSocket === undefined || outputSocket.closed) return ended(code)
        outputSocket.once('close', () => ended(code))
        setTimeout(() => outputSocket?.destroy(), OUTPUT_MS)
      })
      outputSocket = socketOver(own, {})
        .on('data', output)
        .on('error', () => {})
      return {
        kill: () => {
          // Another child may have its pid now.
          if (!isOver) children.kill(pid)
        },
      }
    } catch (error) {
      own.close()
      throw error
    } finally {
      theirs.close()
    }
  }
}

const KEPT_CHARACTERS = 1024

export function commandCheck(text: string, start: StartShell): HealthCheck {
  return {
    name: `command "${text}"`,
    run: signal =>
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
