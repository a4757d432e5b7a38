// @ts-check
// bare.c: clients, servers, and a relay that understands as little as can be.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { compiled } from './compiled.mjs'

/**
 * @typedef {{ connections: number, seconds: number, warm: number, path: string, head: 'small' | 'browser' | 'once' }} Load
 * @typedef {{ answers: number, ms: number, p50: number, p99: number, connected: number, dropped: number }} Seen `p50` and `p99` in µs;
 *   `dropped`: connections that had no answer within 0.9 s of their connect
 */

export class Bare {
  #binary

  /** Compiled into `folder`. @param {string} folder */
  constructor(folder) {
    this.#binary = compiled('bare.c', folder)
  }

  /** @param {(string | number)[]} args */
  #spawn(...args) {
    return spawn(this.#binary, args.map(String), { stdio: ['pipe', 'pipe', 'inherit'] })
  }

  /** A server, a source or a relay. @param {(string | number)[]} args @returns {Promise<import('./processes.mjs').Running>} */
  async start(...args) {
    const child = this.#spawn(...args)
    const [port] = await once(createInterface(child.stdout), 'line')
    return { port: Number(port), pids: () => [child.pid ?? 0], end: () => child.stdin.end() }
  }

  /** @param {number} port @param {Load} load @param {() => void} [began] called when it is warm @returns {Promise<Seen>} */
  async load(port, { connections, seconds, warm, path, head }, began = () => {}) {
    const child = this.#spawn('load', port, connections, seconds, warm, path, head)
    for await (const line of createInterface(child.stdout)) {
      if (line !== 'began') return JSON.parse(line)
      began()
    }
    throw new Error('the load ended early')
  }

  /** Reads all that comes of one connection. @param {number} port @returns {Promise<number>} bytes */
  async drain(port) {
    const child = this.#spawn('drain', port)
    const [bytes] = await once(createInterface(child.stdout), 'line')
    return Number(bytes)
  }
}
