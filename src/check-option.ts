import { FdbError } from './errors.js'

/** Throws ERR_FDB_OPTION unless a timer can wait for so long. */
export function checkMs(name: string, value: unknown, least: number): void {
  if (typeof value !== 'number' || !Number.isFinite(value) || value < least || value > 2 ** 31 - 1) {
    throw wrongOption(name, value, `milliseconds, ${least} to ${2 ** 31 - 1}`)
  }
}

export function wrongOption(name: string, value: unknown, wanted: string): FdbError {
  return new FdbError(
    'ERR_FDB_OPTION',
    `option "${name}" is ${typeof value === 'number' ? value : (JSON.stringify(value) ?? String(value))}; give ${wanted}`,
    { details: { option: name } },
  )
}
