/** Longest delay of a Node timer, about 24.8 days; a longer one would fire after 1 ms. */
export const LONGEST_MS = 2 ** 31 - 1

const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** Parses `500ms`, `30s`, `1.5m` or `2h` into whole milliseconds; null if it is no duration from `least` to {@link LONGEST_MS}. */
export function durationMs(text: string, least = 0): number | null {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text) ?? []
  const ms = Math.round(Number(number) * (UNITS[unit] ?? Number.NaN))
  return ms >= least && ms <= LONGEST_MS ? ms : null
}

/** Formats whole milliseconds, as {@link durationMs} reads them: `250ms`, `60s`, `1h`. */
export function durationText(ms: number): string {
  if (ms % 1000 !== 0) return `${ms}ms`
  return ms > 0 && ms % UNITS.h! === 0 ? `${ms / UNITS.h!}h` : `${ms / 1000}s`
}

/** Formats how long ago something was, in its largest unit, for messages: `42 s ago`, `3 h ago`. */
export function agoText(ms: number): string {
  const [size, unit] = ms < 120_000 ? [1000, 's'] : ms < 7_200_000 ? [60_000, 'min'] : [3_600_000, 'h']
  return `${Math.max(0, Math.round(ms / size))} ${unit} ago`
}

/** Describes the durations that {@link durationMs} accepts, for error messages. */
export function aDuration(least = 0): string {
  return `a duration from ${least}ms to 596h (24.8 days), with its unit: 500ms, 30s, 2m, 1h`
}
