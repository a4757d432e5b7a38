// @ts-check
// Starts processes without a parent of ours: `setsid` forks and exits, so that init adopts the command, in a session of its own.
// Two processes started like this share no ancestor but init. The launcher takes next to no time from what is measured meanwhile.
import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { promisify } from 'node:util'
import { plainEnv } from './plain-env.mjs'

/** Says its pid, and becomes the command. */
const BECOME = 'log=$1; shift; echo $$; exec "$@" >>"$log" 2>&1 </dev/null'

/**
 * @param {string} log file that gets stdout and stderr
 * @param {string} command
 * @param {string[]} args
 * @param {Record<string, string>} [env] besides ours (plainEnv()); not for the launcher
 * @returns {Promise<number>} its pid
 */
export async function startUnrelated(log, command, args, env = {}) {
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  const become = [log, ...(variables.length > 0 ? ['env', ...variables] : []), command, ...args]
  const launcher = ['--fork', 'sh', '-c', BECOME, 'sh', ...become]
  const { stdout } = await promisify(execFile)('setsid', launcher, { env: plainEnv() })
  return Number(stdout)
}

/**
 * Has the process ended? One that waits to be reaped has.
 * @param {number} pid
 */
export function hasEnded(pid) {
  try {
    return / [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'latin1').replace(/^.*\)/s, ''))
  } catch {
    return true
  }
}

/**
 * @param {number} pid
 * @param {number} timeoutMs
 * @returns {Promise<boolean>} false: it runs on
 */
export async function untilEnded(pid, timeoutMs) {
  const give = performance.now() + timeoutMs
  while (!hasEnded(pid)) {
    if (performance.now() >= give) return false
    await new Promise(resolve => setTimeout(resolve, 5))
  }
  return true
}

/**
 * A signal, unless it has ended.
 * @param {number} pid
 * @param {NodeJS.Signals} name
 */
export function signal(pid, name) {
  try {
    process.kill(pid, name)
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'ESRCH') throw error
  }
}
