import { InvalidArgumentError } from 'commander'
import { MOST_WORKERS } from '../workers/options.js'

export function countIn(text: string): number | 'auto' {
  if (text === 'auto') return text
  const count = /^\d{1,9}$/.test(text) ? Number(text) : 0
  if (count >= 1 && count <= MOST_WORKERS) return count
  throw new InvalidArgumentError(`Give a number from 1 to ${MOST_WORKERS}, or auto.`)
}
