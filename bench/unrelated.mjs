// @ts-check
// Starts processes that are nobody's children: a launcher starts the command in a session of its own, says its pid and
// exits, so that init adopts it. Two processes started like this share no ancestor but init.
import { execFile, spawn } from 'node:child_process'
import { openSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const self = fileURLToPath(import.meta.url)

/**
 * @param {string} log file that gets stdout and stderr
 * @param {string} command
 * @param {string[]} args
 * @param {Record<string, string>} [env] besides ours; not for the launcher
 * @returns {Promise<number>} its pid
 */
export async function startUnrelated(log, command, args, env = {}) {
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  const { stdout } = await promisify(execFile)(process.execPath, [
    self,
    log,
    ...(variables.length > 0 ? ['env', ...variables] : []),
    command,
    ...args,
  ])
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

if (process.argv[1] === self) {
  const [log = '/dev/null', command = '', ...args] = process.argv.slice(2)
  const out = openSync(log, 'a')
  const child = spawn(command, args, { detached: true, stdio: ['ignore', out, out] })
  child.on('spawn', () => {
    process.stdout.write(String(child.pid))
    child.unref()
  })
}
