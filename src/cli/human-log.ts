import { jsonObject } from '../base/json.js'
import { plain, type Style, style } from './output.js'

/** Keys that are not shown after the message: their values are the same in each line, or stand before the message. */
const NOT_REPEATED: ReadonlySet<string> = new Set([
  'level',
  'time',
  'pid',
  'ownPid',
  'hostname',
  'name',
  'msg',
  'err',
])
const LEVELS: readonly (readonly [least: number, name: string, style: Style])[] = [
  [50, 'error', 'red'],
  [40, 'warn', 'yellow'],
  [30, 'info', 'green'],
  [0, 'debug', 'dim'],
]

/** Formats a JSON log line for a terminal. Other text is unchanged. */
export function humanLine(text: string, out: NodeJS.WriteStream = process.stderr): string {
  const line = jsonObject(text)
  if (typeof line?.level !== 'number') return text
  const { level, time, msg, err } = line
  const [, name, colour] = LEVELS.find(([least]) => level >= least)!
  const at = Number.isFinite(time) ? timeOf(new Date(Number(time))) : '-'
  const facts = Object.entries(line)
    .filter(([key]) => !NOT_REPEATED.has(key) || (key === 'pid' && line.ownPid !== undefined))
    .map(([key, value]) => style('dim', `${key}=${valueText(value)}`, out))
  const error = err === undefined ? [] : [errorText(err)]
  const words = [style('dim', at, out), style(colour, name.padEnd(5), out), plain(msg), ...error, ...facts]
  return `${words.join(' ')}\n`
}

function timeOf(date: Date): string {
  const two = (number: number) => String(number).padStart(2, '0')
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':')
}

function errorText(error: unknown): string {
  const { code, message, stack } = error as Record<string, unknown>
  if (code !== undefined) return `(${plain(code)}: ${plain(message)})`
  return `(${plain(stack ?? message ?? error)})`
}

function valueText(value: unknown): string {
  if (typeof value === 'object' && value !== null) return plain(JSON.stringify(value))
  return plain(value)
}
