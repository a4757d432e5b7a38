// @ts-check
// All processes of one peer, over all its generations: those of its sessions, and those that have inherited its environment.
import { readdirSync, readFileSync } from 'node:fs'
import { cpuMs } from '../start/processes.mjs'
import { hasEnded } from '../unrelated.mjs'

const MARK = 'FD_BROKER_BENCH_PEER'

/** The environment of a peer. @param {string} name */
export const marked = name => ({ [MARK]: name })

/** @param {string} file @returns {string} '' if the process has ended */
function read(file) {
  try {
    return readFileSync(file, 'latin1')
  } catch {
    return ''
  }
}

/** A server or proxy that is measured: which processes it consists of, now. */
export class Family {
  #mark
  /** nginx writes its title over its environment. @type {Set<number>} */
  #sessions = new Set()

  /** @param {string} name */
  constructor(name) {
    this.#mark = `${MARK}=${name}\0`
  }

  /** @param {number} pid that leads a session */
  addSession(pid) {
    this.#sessions.add(pid)
  }

  get pids() {
    return readdirSync('/proc')
      .filter(entry => /^\d+$/.test(entry))
      .map(Number)
      .filter(pid => !hasEnded(pid) && (this.#sessions.has(sessionOf(pid)) || this.#isMarked(pid)))
  }

  /** @param {number} pid */
  #isMarked(pid) {
    return `${read(`/proc/${pid}/environ`)}\0`.includes(this.#mark)
  }

  /** Processor time up to now, of the processes that live, in milliseconds. */
  get cpuMs() {
    return this.pids.reduce((sum, pid) => {
      try {
        return sum + cpuMs(pid)
      } catch {
        return sum
      }
    }, 0)
  }

  /** In MiB: each shared page counts in parts. */
  get memoryMiB() {
    const kib = this.pids.reduce(
      (sum, pid) => sum + Number(/^Pss:\s+(\d+)/m.exec(read(`/proc/${pid}/smaps_rollup`))?.[1] ?? 0),
      0,
    )
    return kib / 1024
  }

  end() {
    for (const pid of this.pids) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {
        // The process has ended.
      }
    }
  }
}

/** @param {number} pid */
function sessionOf(pid) {
  return Number(read(`/proc/${pid}/stat`).split(') ')[1]?.split(' ')[3])
}
