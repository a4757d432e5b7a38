// @ts-check
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

/**
 * A program in a process of its own that says NDJSON on stdout: `{"type":"snapshot",...}` now and then, answers to
 * commands, `{"type":"report",...}` at its end; so a busy caller does not delay it. The program ends with this process.
 * @param {string} file
 * @param {string[]} args
 * @param {{ fds?: number }} [options] descriptors that it may have; default: what this process may have
 */
export function spawnReporter(file, args, { fds } = {}) {
  const [command = '', ...rest] = [
    ...(fds === undefined ? [] : ['prlimit', `--nofile=${fds}:`, '--']),
    process.execPath,
    file,
    ...args,
  ]
  const child = spawn(command, rest, { stdio: ['pipe', 'pipe', 'inherit'] })
  /** @type {any} */
  let latest = null
  /** @type {any} */
  let report = null
  /** @type {((answer: any) => void)[]} */
  const asked = []
  const ended = once(child, 'close')
  createInterface(child.stdout).on('line', line => {
    const { type, ...value } = JSON.parse(line)
    if (type === 'snapshot') latest = value
    else if (type === 'report') report = value
    else asked.shift()?.(value)
  })
  return {
    pid: child.pid ?? 0,
    /** The last snapshot; null before the first. */
    snapshot: () => latest,
    /** Resolves with its answer. @param {object} command @returns {Promise<any>} */
    ask(command) {
      child.stdin.write(`${JSON.stringify(command)}\n`)
      return new Promise((resolve, reject) => {
        asked.push(resolve)
        ended.then(() => reject(new Error(`${file} ended early`)))
      })
    },
    /** @returns {Promise<any>} its report */
    async stop() {
      child.stdin.end(`${JSON.stringify({ stop: true })}\n`)
      const [code, signal] = await ended
      if (!report) throw new Error(`${file} ended without a report: ${signal ?? `exit code ${code}`}`)
      return report
    },
    /** Ends it at once, without a report. */
    kill: () => child.kill('SIGKILL'),
  }
}
