/** The trouble at one call of a process to its kernel. */
export type Trouble =
  /** The call fails with `code`; `always`: so does each later call of that name in this process, until the trouble ends, or for `seconds`. */
  | { readonly what: 'fails'; readonly code: string; readonly always: boolean; readonly seconds?: number }
  /** Half of the bytes are read or written. */
  | { readonly what: 'half' }
  /** The message arrives without its descriptors: the process has no room for them. */
  | { readonly what: 'truncated' }
  /** A call of another thread, a timer or the start of a child takes effect {@link LATE_MS} later. */
  | { readonly what: 'late' }
  | { readonly what: 'dies before' }
  /** The callback that makes the call ends first. */
  | { readonly what: 'dies after' | 'stops after' }

/** A trouble at the `n`-th call of a process since the trouble of the scenario has begun. */
export interface Point {
  readonly scenario: string
  readonly process: string
  readonly n: number
  readonly trouble: Trouble
  /** The trouble comes again, at the same call of the process with the same part, when the act of the scenario is repeated. */
  readonly twice?: boolean
}

export const LATE_MS = 3_000

const SIMPLE = ['half', 'truncated', 'late', 'dies before', 'dies after', 'stops after'] as const

export function troubleText(trouble: Trouble): string {
  if (trouble.what !== 'fails') return trouble.what.replace(' ', '-')
  if (!trouble.always) return trouble.code
  return `${trouble.code}-${trouble.seconds === undefined ? 'always' : `${trouble.seconds}s`}`
}

/** As `--point` takes it: `embedded:B:37:EMFILE`, or `embedded:B:37:EMFILE:twice`. */
export function pointText({ scenario, process, n, trouble, twice }: Point): string {
  return `${scenario}:${process}:${n}:${troubleText(trouble)}${twice ? ':twice' : ''}`
}

export function parsePoint(text: string): Point {
  const [, scenario, process, n, rest, twice] = /^([\w-]+):([^:]+):(\d+):([\w-]+)(:twice)?$/.exec(text) ?? []
  if (rest === undefined) throw new Error(`"${text}" is no point: SCENARIO:PROCESS:N:TROUBLE[:twice]`)
  const point = { scenario: scenario!, process: process!, n: Number(n), trouble: parseTrouble(rest) }
  return twice === undefined ? point : { ...point, twice: true }
}

export function parseTrouble(text: string): Trouble {
  const simple = SIMPLE.find(what => what.replace(' ', '-') === text)
  if (simple !== undefined) return { what: simple }
  const [, code = '', forHowLong, seconds] = /^(\w+?)(?:-(always|(\d+)s))?$/.exec(text) ?? []
  if (code === '') throw new Error(`"${text}" is no trouble`)
  const always = forHowLong !== undefined
  return { what: 'fails', code, always, ...(seconds !== undefined && { seconds: Number(seconds) }) }
}
