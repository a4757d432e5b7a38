const UNITS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }

/** The longest that a timer can wait, milliseconds: about 24.8 days. */
export const LONGEST_MS = 2 ** 31 - 1

/** `500ms`, `30s`, `1.5m`, `2h` in milliseconds; null: it is none, or not within 1 ms to {@link LONGEST_MS}. */
export function parseDuration(text: string): number | null {
  const [, number = '', unit = ''] = /^(\d+(?:\.\d+)?)(ms|s|m|h)$/.exec(text) ?? []
  const ms = Math.round(Number(number) * (UNITS[unit] ?? Number.NaN))
  return ms >= 1 && ms <= LONGEST_MS ? ms : null
}

/** For people, in the two largest units: `3d 4h`, `5m 12s`, `7.3s`. */
export function formatDuration(seconds: number): string {
  if (!Number.isFinite(seconds) || seconds < 0) return '-'
  if (seconds < 60) return `${(Math.floor(seconds * 10) / 10).toFixed(1)}s`
  const whole = Math.floor(seconds)
  const parts: [number, string][] = [
    [Math.floor(whole / 86_400), 'd'],
    [Math.floor(whole / 3600) % 24, 'h'],
    [Math.floor(whole / 60) % 60, 'm'],
    [whole % 60, 's'],
  ]
  const first = parts.findIndex(([count]) => count > 0)
  return parts
    .slice(first, first + 2)
    .map(([count, unit]) => `${count}${unit}`)
    .join(' ')
}
