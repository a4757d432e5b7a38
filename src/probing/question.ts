/** One way to find out whether a version is well. */
export interface Question {
  /** What is asked, as failures name it: `GET /health`. */
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

/** Rejects as soon as it has: whoever was asked may not look at it. */
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
