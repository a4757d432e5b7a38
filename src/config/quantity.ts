import { durationMs, LONGEST_MS } from '../base/time.js'
import { type Check, text } from './check.js'
import { shown, Wrong } from './wrong.js'

const SIZES = { '': 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30 } as const

/** `500ms`, `30s`, `1.5m`, `2h` in whole milliseconds, from `least` to about 24 days. */
export function duration(least: number): Check<number> {
  const read = text('a duration', given => {
    const ms = durationMs(given)
    if (ms === null) return new Wrong(`${shown(given)} is no duration (500ms, 30s, 2m, 1h)`)
    if (ms >= least && ms <= LONGEST_MS) return ms
    return new Wrong(`${shown(given)} is ${ms} ms, outside of ${least} ms to ${LONGEST_MS} ms (24 days)`)
  })
  return (value, place) =>
    typeof value === 'number'
      ? place.wrong(`${value} has no unit; write ${value}s or ${value}ms`)
      : read(value, place)
}

/** `512`, `16k`, `1m`, `2g` in bytes (k is 1,024). */
export function size(least: number, most: number): Check<number> {
  const within = (bytes: number, given: unknown) =>
    bytes >= least && bytes <= most
      ? bytes
      : new Wrong(`${shown(given)} is ${bytes} bytes, outside of ${least} to ${most}`)
  const read = text('a size', given => {
    const [, number, unit = ''] = /^(\d+)([kmg]?)$/i.exec(given) ?? []
    if (number === undefined) return new Wrong(`${shown(given)} is no size (512, 16k, 1m, 2g)`)
    return within(Number(number) * SIZES[unit.toLowerCase() as keyof typeof SIZES], given)
  })
  return (value, place) =>
    read(typeof value === 'number' && Number.isInteger(value) && value >= 0 ? String(value) : value, place)
}
