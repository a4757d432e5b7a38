import type { Question } from './question.js'

/** Of a command's output, the end that is kept. */
const KEPT_CHARACTERS = 1024

/** A shell that was started. */
export interface Shell {
  /** Ends it, and what it has started, by its pid; nothing when it has ended. */
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
