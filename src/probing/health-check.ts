import { connect, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { withinLimit } from '../base/limited-signal.js'

export interface HealthCheck {
  /** The check's name in failures, such as `GET /health`. */
  readonly name: string
  /**
   * Resolves with null if the version is healthy, otherwise with its bad answer. Rejects if the version does not answer. The caller ignores the
   * result after `signal` has aborted.
   */
  run(signal: AbortSignal): Promise<string | null>
}

const MOST_CHARACTERS = 300

/**
 * Runs a check once. Resolves with null if the check passes, otherwise with its name and the reason in one line. Never rejects. Ignore the
 * result after `signal` has aborted.
 */
export async function runCheck(
  check: HealthCheck,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<string | null> {
  const answer = await withinLimit(signal, timeoutMs, async limited => {
    try {
      return await Promise.race([check.run(limited), rejectOnAbort(limited)])
    } catch (error) {
      if (limited.aborted) return `no answer within ${timeoutMs} ms`
      return (error instanceof Error && error.message) || String(error)
    }
  })
  return answer === null ? null : oneLine(`${check.name}: ${answer}`)
}

/** Rejects when the signal aborts, for checks that ignore it. */
function rejectOnAbort(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    if (signal.aborted) reject(signal.reason)
    else signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}

function oneLine(text: string): string {
  const line = text.replace(/[\p{Cc}\s]+/gu, ' ').trim()
  return line.length <= MOST_CHARACTERS ? line : `${line.slice(0, MOST_CHARACTERS - 1)}…`
}

export interface CheckPace {
  /** Delay between an answer and the next check, in milliseconds. */
  readonly interval: number
  /** Time limit for an answer, in milliseconds. */
  readonly timeout: number
}

/**
 * Repeats a check until `signal` aborts, and calls `answered` with each result of {@link runCheck}. Calls `pace` before each check and each
 * delay, because the pace may change. Never rejects.
 */
export async function repeatCheck(
  check: HealthCheck,
  pace: () => CheckPace,
  signal: AbortSignal,
  answered: (why: string | null) => void,
): Promise<void> {
  while (!signal.aborted) {
    const why = await runCheck(check, pace().timeout, signal)
    if (signal.aborted) return
    answered(why)
    await delay(pace().interval, undefined, { signal }).catch(() => {})
  }
}

/** Judges a version by the results of its health check, one after the other. */
export class HealthJudge {
  readonly #passes: number
  #passed = 0
  #failed = 0
  #isReady = false
  #isUnwell = false
  /** Why the last check failed; null if it passed. */
  last: string | null = null

  /** The version is ready, and well again, after `passes` successful checks in a row. */
  constructor(passes: number) {
    this.#passes = passes
  }

  get isReady(): boolean {
    return this.#isReady
  }

  /** The version counts as ready without a check. `isUnwell`: earlier checks have failed, which another judge has heard. */
  markReady(isUnwell = false): void {
    this.#isReady = true
    this.#isUnwell = isUnwell
  }

  /** Takes a result of {@link repeatCheck}. Returns what it changes; null if nothing. A ready version is unwell after `failures` failed checks in a row. */
  hear(why: string | null, failures = 1): 'ready' | 'unwell' | 'well again' | null {
    this.last = why
    this.#passed = why === null ? this.#passed + 1 : 0
    this.#failed = why === null ? 0 : this.#failed + 1
    const passes = this.#passed >= this.#passes
    if (!this.#isReady) {
      this.#isReady = passes
      return passes ? 'ready' : null
    }
    if (this.#isUnwell ? !passes : this.#failed < failures) return null
    this.#isUnwell = !this.#isUnwell
    return this.#isUnwell ? 'unwell' : 'well again'
  }
}

/** Passes if a server accepts a connection. `open`: opens one that the signal aborts. `opened`: the event of the socket that tells it. */
export function connectCheck(
  name: string,
  open: (signal: AbortSignal) => Socket,
  opened = 'connect',
): HealthCheck {
  return {
    name: `connect to ${name}`,
    run: signal =>
      new Promise((resolve, reject) => {
        const socket = open(signal)
        socket.once('error', reject)
        socket.once(opened, () => {
          socket.destroy()
          resolve(null)
        })
      }),
  }
}

export function tcpCheck(host: string, port: number): HealthCheck {
  return connectCheck(`${host.includes(':') ? `[${host}]` : host}:${port}`, signal =>
    connect({ host, port, signal }),
  )
}

/** Health checks that an operator can configure, the same for `fd-broker run` and the proxy. */
export type CheckSpec =
  /** Passes if the response's status is 2xx or 3xx. For a `url` that begins with `/`, the connection reaches only the checked version. */
  | { readonly kind: 'http'; readonly url: string }
  /** Passes if the kernel accepts a connection. */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  /** Passes if the text, as a command of `sh -c`, exits with code 0. */
  | { readonly kind: 'command'; readonly text: string }

/** A parser for each kind of check. A parser returns null for an invalid text. */
export const CHECK_PARSERS = {
  /** Accepts `/health`, `http://127.0.0.1/health` and `//127.0.0.1/health`. */
  http(rest: string): CheckSpec | null {
    if (rest.startsWith('/') && !rest.startsWith('//')) return { kind: 'http', url: rest }
    const url = rest.startsWith('//') ? `http:${rest}` : rest
    return URL.canParse(url) && new URL(url).protocol === 'http:' ? { kind: 'http', url } : null
  },

  /** Accepts `127.0.0.1:80` and `[::1]:80`, with or without a leading `//`. */
  tcp(rest: string): CheckSpec | null {
    const address = rest.startsWith('//') ? rest.slice(2) : rest
    const [, v6, plain, digits] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(address) ?? []
    const port = Number(digits)
    const host = v6 ?? plain
    return host === undefined || !(port > 0 && port < 65_536) ? null : { kind: 'tcp', host, port }
  },

  command(text: string): CheckSpec | null {
    return text.trim() === '' ? null : { kind: 'command', text }
  },
} as const
