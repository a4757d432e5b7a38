/** The longest that a timer of Node waits, milliseconds, about 24.8 days: it takes anything longer for one millisecond. */
export const LONGEST_MS = 2 ** 31 - 1

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** `500ms`, `30s`, `1.5m`, `2h` in whole milliseconds, of whatever length; null: it is none. */
export function durationMs(text: string): number | null {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text) ?? []
  return unit === '' ? null : Math.round(Number(number) * UNITS[unit]!)
}
