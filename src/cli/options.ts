import { InvalidArgumentError, Option } from 'commander'
import { wrongOption } from '../base/check-option.js'
import { durationMs, LONGEST_MS } from '../base/time.js'
import { parseDuration } from './duration.js'

/** Of pino. */
export const LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent']

export function controlOption(): Option {
  return new Option('--control <path>', 'control socket of the service')
    .makeOptionMandatory()
    .argParser(text => {
      if (text === '') throw new InvalidArgumentError('Give the path of a Unix socket.')
      return text
    })
}

export function durationOption(flags: string, description: string, byDefault?: string): Option {
  const option = new Option(flags, description).argParser(toMs)
  return byDefault === undefined ? option : option.default(toMs(byDefault), byDefault)
}

/** Of an option. */
export function toMs(text: string): number {
  const ms = parseDuration(text)
  if (ms !== null) return ms
  const tooLong = (durationMs(text) ?? 0) > LONGEST_MS
  throw new InvalidArgumentError(
    tooLong
      ? 'Give at most 596h (24.8 days): no timer of Node waits longer.'
      : 'Give a duration with its unit: 500ms, 30s, 2m, 1h.',
  )
}

/** A process's number, as text. Throws ERR_FDB_OPTION. */
export function pidOf(option: string, text: string): number {
  if (/^[1-9]\d{0,9}$/.test(text)) return Number(text)
  throw wrongOption(option, text, 'the number of a process')
}
