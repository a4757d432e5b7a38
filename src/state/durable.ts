import { FdbError } from '../errors.js'

/** What brings the log to a disk. */
export interface Disk {
  /** Throws ERR_FDB_FENCED in a process that does not write there. */
  checkServing(): void
  /** Resolves when everything that is in the log now is on the disk. */
  flush(): Promise<void>
}

/** A change that is to be on a disk. */
export interface Durability {
  /** The process that made it, in place of this one, has brought it to its disk. */
  done: boolean
}

/** Makes a change, and resolves with what that gives; when it is to be `durable`, only once it is on the disk. */
export function made<R>(
  change: (durability: Durability | null) => Promise<R>,
  { durable = false }: { durable?: boolean },
  disk: Disk | null,
): Promise<R> {
  return durable ? throughTo(disk, change) : change(null)
}

async function throughTo<R>(disk: Disk | null, change: (durability: Durability) => Promise<R>): Promise<R> {
  if (disk === null) {
    throw new FdbError(
      'ERR_FDB_OPTION',
      'option "durable" needs a state file: give join() a stateFile, or leave it out',
    )
  }
  disk.checkServing()
  const durability: Durability = { done: false }
  const result = await change(durability)
  if (durability.done) return result
  try {
    await disk.flush()
  } catch (cause) {
    throw new FdbError(
      'ERR_FDB_STATE_FILE',
      `the change is made, and is not known to be on the disk yet: ${(cause as Error).message}`,
      { cause, retryable: true },
    )
  }
  return result
}
