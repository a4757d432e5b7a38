import { checkKeys, type Keys, wrongOption } from '../base/check-option.js'

export interface WriteOptions {
  /**
   * A client's request id: the same change tried again with the same id applies once. Another change under the same id (of another
   * section, key or kind) is refused with ERR_FDB_STATE_REQUEST; the values are not compared.
   */
  request?: string
  /**
   * Resolves when the change is on the disk (needs a `stateFile`): it then outlives a power cut too. Several at a time share one sync.
   * Where another process writes, or comes to write meanwhile, that one brings it to its disk. Rejects with ERR_FDB_FENCED, and makes no change, before `ready()`;
   * with ERR_FDB_STATE_FILE and `details.made: true` when the disk fails: the change is made, in memory, and comes to the disk when that is
   * possible. Default: as the section's schema says.
   */
  durable?: boolean
}

const WRITE_OPTIONS: Keys<WriteOptions> = { request: true, durable: true }

/** Throws ERR_FDB_OPTION for what is no option of a change; the id of its request is checked on its own. */
export function checkWrite(call: string, options: unknown): void {
  checkKeys(call, options, WRITE_OPTIONS)
  const { durable } = options as { durable?: unknown }
  if (durable !== undefined && typeof durable !== 'boolean')
    throw wrongOption('durable', durable, 'true or false')
}
