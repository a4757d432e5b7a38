/** Longest delay of a Node timer, about 24.8 days; a longer one would fire after 1 ms. */
export const LONGEST_MS = 2 ** 31 - 1

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** Parses `500ms`, `30s`, `1.5m` or `2h` into whole milliseconds of any length; null if it is no duration. */
export function durationMs(text: string): number | null {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text) ?? []
  return unit === '' ? null : Math.round(Number(number) * UNITS[unit]!)
}
