import { connect } from 'node:net'

/** One way to find out whether a version is well. */
export interface Question {
  /** The name of the question in failures: `GET /health`. */
  readonly asked: string
  /** Null: it is well; else what was answered. Rejects: nothing was. One whose `signal` has aborted is not waited for. */
  ask(signal: AbortSignal): Promise<string | null>
}

/** The longest text of a failure that is passed on. */
const MOST_CHARACTERS = 300

/**
 * Asks once. Null: it is well; else what was asked and what came of it, in one line. Never rejects; `signal` aborts the wait, and what
 * is told then is of no use.
 */
export async function askOnce(
  question: Question,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<string | null> {
  const late = AbortSignal.timeout(timeoutMs)
  const limit = AbortSignal.any([signal, late])
  let answer: string | null
  try {
    answer = await Promise.race([question.ask(limit), aborted(limit)])
  } catch (error) {
    if (late.aborted) answer = `no answer within ${timeoutMs} ms`
    else answer = (error instanceof Error && error.message) || String(error)
  }
  return answer === null ? null : oneLine(`${question.asked}: ${answer}`)
}

/** Rejects as soon as the signal aborts: the asked program may ignore it. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}

/** Without what would not be shown as it is. */
function oneLine(text: string): string {
  const line = text.replace(/[\p{Cc}\s]+/gu, ' ').trim()
  return line.length <= MOST_CHARACTERS ? line : `${line.slice(0, MOST_CHARACTERS - 1)}…`
}

export interface Pace {
  /** Between an answer and the next question, milliseconds. */
  readonly interval: number
  /** An answer that takes longer is none, milliseconds. */
  readonly timeout: number
}

/**
 * Asks until `signal` aborts, one question at a time, and tells each answer as {@link askOnce} gives it; its pace is asked for anew
 * each time. Never rejects.
 */
export async function askAgain(
  question: Question,
  pace: () => Pace,
  signal: AbortSignal,
  answered: (why: string | null) => void,
): Promise<void> {
  while (!signal.aborted) {
    const why = await askOnce(question, pace().timeout, signal)
    if (signal.aborted) return
    answered(why)
    await rest(pace().interval, signal)
  }
}

function rest(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise(resolve => {
    if (signal.aborted) {
      resolve()
      return
    }
    const end = () => {
      clearTimeout(timer)
      signal.removeEventListener('abort', end)
      resolve()
    }
    const timer = setTimeout(end, ms)
    signal.addEventListener('abort', end, { once: true })
  })
}

/** Whether it takes a connection. */
export function tcpQuestion(host: string, port: number): Question {
  return {
    asked: `connect to ${host.includes(':') ? `[${host}]` : host}:${port}`,
    ask: signal =>
      new Promise((resolve, reject) => {
        const socket = connect({ host, port, signal })
        socket.once('error', reject)
        socket.once('connect', () => {
          socket.destroy()
          resolve(null)
        })
      }),
  }
}

/** The questions that an operator can configure, the same for `fd-broker run` and the proxy. */
export type Asked =
  /** It answers a GET with 2xx or 3xx; `url` begins with `/`: through a socket that this version alone has. */
  | { readonly kind: 'http'; readonly url: string }
  /** It takes a connection. */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  /** `sh -c` of it ends with 0. */
  | { readonly kind: 'command'; readonly text: string }

/** Each gives null for what is none. */
export const ASKED = {
  /** `/health`, `http://127.0.0.1/health`, and what is left of the latter behind `http:`. */
  http(rest: string): Asked | null {
    if (rest.startsWith('/') && !rest.startsWith('//')) return { kind: 'http', url: rest }
    const url = rest.startsWith('//') ? `http:${rest}` : rest
    return URL.canParse(url) && new URL(url).protocol === 'http:' ? { kind: 'http', url } : null
  },

  /** `127.0.0.1:80`, `[::1]:80`, with or without `//` before it. */
  tcp(rest: string): Asked | null {
    const address = rest.startsWith('//') ? rest.slice(2) : rest
    const [, v6, plain, digits] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(address) ?? []
    const port = Number(digits)
    const host = v6 ?? plain
    return host === undefined || !(port > 0 && port < 65_536) ? null : { kind: 'tcp', host, port }
  },

  command(text: string): Asked | null {
    return text.trim() === '' ? null : { kind: 'command', text }
  },
} as const
