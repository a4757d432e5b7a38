import { resolve } from 'node:path'
import { checkKeys, type Keys, wrongOption } from '../../base/check-option.js'
import { LONGEST_MS } from '../../base/duration.js'

/** Where the state is kept on a disk, and how. */
export interface StateFileOptions {
  /** Its folder must be there. Of one service alone: another's is refused (ERR_FDB_STATE_FILE). */
  path: string
  /**
   * When what was written is brought to the disk (fdatasync): `always`, behind each write; every so many milliseconds when
   * there was one; `never`, when the system likes. Default 1000. At a compaction and at the end always.
   */
  sync?: 'always' | 'never' | number
  /**
   * A first process that finds the file damaged, or shorter than it was when it was synced: `refuse` (default), join() rejects and
   * the file stays as it is; `prefix`, it starts with what stands before the damage, and the file is kept as `PATH.damaged-TIME`.
   */
  damaged?: 'refuse' | 'prefix'
}

export interface StateFileSettings extends Required<StateFileOptions> {
  /** Whose state it is; another's is neither read nor replaced. Empty: anybody's. */
  service: string
}

const OPTIONS: Keys<StateFileOptions> = { path: true, sync: true, damaged: true }

/** Throws ERR_FDB_OPTION. */
export function stateFileSettings(given: string | StateFileOptions, service = ''): StateFileSettings {
  if (typeof given !== 'string') checkKeys('stateFile', given, OPTIONS)
  const { path, sync = 1000, damaged = 'refuse' } = typeof given === 'string' ? { path: given } : given
  if (typeof path !== 'string' || path === '' || path.includes('\0') || path.endsWith('/'))
    throw wrongOption('stateFile.path', path, 'the path of a file')
  if (sync !== 'always' && sync !== 'never' && !(Number.isInteger(sync) && sync >= 1 && sync <= LONGEST_MS))
    throw wrongOption('stateFile.sync', sync, '"always", "never" or milliseconds from 1')
  if (damaged !== 'refuse' && damaged !== 'prefix')
    throw wrongOption('stateFile.damaged', damaged, '"refuse" or "prefix"')
  return { path: resolve(path), sync, damaged, service }
}
