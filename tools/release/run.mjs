// @ts-check
import { spawnSync } from 'node:child_process'

/**
 * Runs a command with the output of this process. Throws unless it exits with code 0.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ cwd: string, env?: Record<string, string> }} options
 */
export function run(command, args, { cwd, env = {} }) {
  console.log(`$ ${[command, ...args].join(' ')}`)
  const { status, signal, error } = spawnSync(command, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: 'inherit',
  })
  if (error) throw error
  if (status !== 0) throw new Error(`${command} ${args[0]}: ${signal ?? `exit code ${status}`}`)
}

/**
 * Runs a command and returns its output. Throws unless it exits with code 0.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {string} cwd
 * @returns {string}
 */
export function outputOf(command, args, cwd) {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    maxBuffer: 64 << 20,
  })
  if (error) throw error
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: exit code ${status}\n${stderr}`)
  return stdout.trim()
}
