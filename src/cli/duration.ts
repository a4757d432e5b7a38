import { durationMs, LONGEST_MS } from '../base/time.js'

/** As {@link durationMs}; null also where it is not within 1 ms to {@link LONGEST_MS}. */
export function parseDuration(text: string): number | null {
  const ms = durationMs(text)
  return ms !== null && ms >= 1 && ms <= LONGEST_MS ? ms : null
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
