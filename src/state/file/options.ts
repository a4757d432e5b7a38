import { resolve } from 'node:path'
import { FdbError } from '../../errors.js'

/** Where the state is kept on a disk, and how. */
export interface StateFileOptions {
  /** Its folder must be there. Of one service alone. */
  path: string
  /**
   * When what was written is brought to the disk (fdatasync): `always`, behind each write; every so many milliseconds when
   * there was one; `never`, when the system likes. Default 1000. At a compaction and at the end always.
   */
  sync?: 'always' | 'never' | number
  /**
   * A first process that finds the file damaged: `refuse` (default), join() rejects and the file stays as it is; `prefix`, it
   * starts with what stands before the damage, and the file is kept as `PATH.damaged-TIME`.
   */
  damaged?: 'refuse' | 'prefix'
}

export interface StateFileSettings extends Required<StateFileOptions> {}

/** Throws ERR_FDB_OPTION. */
export function stateFileSettings(given: string | StateFileOptions): StateFileSettings {
  const { path, sync = 1000, damaged = 'refuse' } = typeof given === 'string' ? { path: given } : given
  if (typeof path !== 'string' || path === '' || path.includes('\0') || path.endsWith('/'))
    throw wrong('path', path, 'the path of a file')
  if (sync !== 'always' && sync !== 'never' && !(Number.isInteger(sync) && sync >= 1 && sync < 2 ** 31))
    throw wrong('sync', sync, '"always", "never" or milliseconds from 1')
  if (damaged !== 'refuse' && damaged !== 'prefix') throw wrong('damaged', damaged, '"refuse" or "prefix"')
  return { path: resolve(path), sync, damaged }
}

function wrong(name: keyof StateFileOptions, value: unknown, wanted: string): FdbError {
  return new FdbError(
    'ERR_FDB_OPTION',
    `option "stateFile.${name}" is ${JSON.stringify(value) ?? String(value)}; give ${wanted}`,
    { details: { option: `stateFile.${name}` } },
  )
}
