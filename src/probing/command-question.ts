import type { Question } from './question.js'
import type { Shell, StartShell } from './shell.js'

/** Of a command's output, the end that is kept. */
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
