import { InvalidArgumentError, Option } from 'commander'
import { aDuration, durationMs } from '../base/duration.js'
import { wrongOption } from '../checks/place.js'
import { MOST_WORKERS } from '../workers/options.js'

export function logLevelOption(): Option {
  return new Option('--log-level <level>', 'level of the log on stderr: text on a terminal, else JSON lines')
    .choices(['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'])
    .default('info')
}

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

/** Parses a duration. Throws an error that Commander prints. */
export function toMs(text: string): number {
  const ms = durationMs(text, 1)
  if (ms !== null) return ms
  throw new InvalidArgumentError(`Give ${aDuration(1)}.`)
}

export function workerCount(text: string): number | 'auto' {
  if (text === 'auto') return text
  const count = /^\d{1,9}$/.test(text) ? Number(text) : 0
  if (count >= 1 && count <= MOST_WORKERS) return count
  throw new InvalidArgumentError(`Give a number from 1 to ${MOST_WORKERS}, or auto.`)
}

/** Parses a pid. Throws ERR_FDB_OPTION. */
export function parsePid(option: string, text: string): number {
  if (/^[1-9]\d{0,9}$/.test(text)) return Number(text)
  throw wrongOption(option, text, 'the number of a process')
}
