// @ts-check
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import net from 'node:net'
import { plainEnv } from '../plain-env.mjs'

/** Between two questions who serves. */
const ASK_MS = 2

/** @typedef {import('node:child_process').ChildProcess} Child */

/** @param {string} node @param {string[]} args @param {Record<string, string>} [env] */
export function start(node, args, env = {}) {
  return spawn(node, args, { stdio: ['ignore', 'pipe', 'inherit'], env: { ...plainEnv(), ...env } })
}

/** @param {Child} child */
export async function ended(child) {
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
}

/** Resolves when this process has answered a client; rejects if it ends before. @param {number} port @param {Child} child */
export async function answers(port, child) {
  const header = new RegExp(`^x-pid: .*\\b${child.pid}\\b`, 'im')
  while (!header.test(await answer(port))) {
    if (child.exitCode !== null) throw new Error(`process ${child.pid} ended with ${child.exitCode}`)
    await new Promise(resolve => setTimeout(resolve, ASK_MS))
  }
}

/** @param {number} port @returns {Promise<string>} '' when there was none */
function answer(port) {
  return new Promise(resolve => {
    let text = ''
    const socket = net.connect(port, '127.0.0.1')
    socket.on('connect', () => socket.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'))
    socket.on('data', bytes => (text += bytes))
    socket.on('error', () => {})
    socket.on('close', () => resolve(text))
  })
}

/** Processor time of all its threads up to now, in milliseconds; a thread that has ended does not count. @param {number} pid */
export function cpuMs(pid) {
  let ns = 0
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    const [ran = '0'] = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')
    ns += Number(ran)
  }
  return ns / 1e6
}

/** Processes that keep every processor busy. @param {number} count @returns {() => void} ends them */
export function busy(count) {
  const children = Array.from({ length: count }, () => start(process.execPath, ['-e', 'for (;;);']))
  return () => {
    for (const child of children) child.kill('SIGKILL')
  }
}
