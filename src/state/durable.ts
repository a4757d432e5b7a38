import { FdbError } from '../errors.js'

export interface Disk {
  /** Throws ERR_FDB_FENCED unless this process writes the state file. */
  checkServing(): void
  /** Resolves when everything that is in the log now is fsynced. `marked`: and when the mark that notices later damage of it is written; default true. */
  flush(options?: { readonly marked?: boolean }): Promise<void>
}

export interface Durability {
  /** The change must be on disk before its promise resolves. For an update this is known only after its function has run. */
  needed: boolean
  /** The change was forwarded, and the process that made it has written it to disk. */
  done: boolean
}

interface DurableOption {
  durable?: boolean | undefined
}

/**
 * Makes a change. A durable change resolves when it is on disk. `byDefault` is the section's setting, which the option `durable` overrides. Without the
 * option, `change` may find out that it is durable, see {@link requireDisk}.
 */
export async function makeDurably<R>(
  change: (durability: Durability | null) => Promise<R>,
  { durable }: DurableOption,
  disk: Disk | null,
  byDefault = false,
): Promise<R> {
  if (durable === false) return await change(null)
  const durability: Durability = { needed: durable ?? byDefault, done: false }
  if (durability.needed) {
    const present = diskOrThrow(disk)
    // Before ready() a change with the option is refused, and one of a durable section waits.
    if (durable) present.checkServing()
  }
  const result = await change(durability)
  if (durability.needed && !durability.done) await flush(disk)
  return result
}

/** Marks an update that changes a durable section. Throws ERR_FDB_OPTION if there is no state file. */
export function requireDisk(durability: Durability | null, disk: Disk | null): void {
  if (durability === null || durability.needed) return
  diskOrThrow(disk)
  durability.needed = true
}

function diskOrThrow(disk: Disk | null): Disk {
  if (disk !== null) return disk
  throw new FdbError(
    'ERR_FDB_OPTION',
    'option "durable" needs a state file: give join() a stateFile, or omit "durable"',
  )
}

/** The error has `details.made`: the change is in effect, but a power cut may undo it. */
async function flush(disk: Disk | null): Promise<void> {
  try {
    await disk?.flush()
  } catch (cause) {
    const reason = `the change was made, but may not be on disk yet: ${(cause as Error).message}`
    throw new FdbError('ERR_FDB_STATE_FILE', reason, { cause, retryable: true, details: { made: true } })
  }
}
