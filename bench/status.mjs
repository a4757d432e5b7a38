// @ts-check
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = fileURLToPath(new URL('..', import.meta.url))

/**
 * `fd-broker status --json` as an operator would run it.
 * @param {string} control
 * @returns {Promise<Record<string, any> | null>} null when there is no answer
 */
export async function status(control) {
  const { bin } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const command = typeof bin === 'string' ? bin : bin?.['fd-broker']
  if (!command) return null
  const args = [join(root, command), 'status', '--control', control, '--json']
  // The command exits with 3 if no process serves, and prints what the daemon knows.
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 5000 }).catch(
    error => error,
  )
  try {
    return JSON.parse(stdout)
  } catch {
    return null
  }
}

/**
 * How the process that serves took over, for a table: `offered 2, read 8, serving 13` (ms after its Hello).
 * @param {Record<string, any> | null} answer of status()
 */
export function phasesOf(answer) {
  /** @type {{ step: string, ms: number }[]} */
  const steps = answer?.takeover ?? []
  return steps.map(({ step, ms }) => `${step} ${ms.toFixed(0)}`).join(', ')
}
