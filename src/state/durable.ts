import { FdbError } from '../errors.js'

export interface Disk {
  /** Throws ERR_FDB_FENCED unless this process writes the state file. */
  checkServing(): void
  /** Resolves when everything that is in the log now is fsynced. */
  flush(): Promise<void>
}

export interface Durability {
  /** The change must be on disk before its promise resolves. For an update this is known only after its function has run. */
  needed: boolean
  /** The change was forwarded, and the process that made it has written it to disk. */
  done: boolean
}

interface DurableOption {
  durable?: boolean
}

/** Makes a change. A durable change resolves when it is on disk. `byDefault` is the section's setting, which the option `durable` overrides. */
export function makeDurably<R>(
  change: (durability: Durability | null) => Promise<R>,
  { durable }: DurableOption,
  disk: Disk | null,
  byDefault = false,
): Promise<R> {
  return (durable ?? byDefault) ? makeAndFlush(disk, change, durable === true) : change(null)
}

/** Makes an update. Without the option `durable` it is durable if it changes a durable section, see {@link requireDisk}. */
export async function updateDurably<R>(
  change: (durability: Durability | null) => Promise<R>,
  options: DurableOption,
  disk: () => Disk | null,
): Promise<R> {
  if (options.durable !== undefined) return await makeDurably(change, options, disk())
  const durability: Durability = { needed: false, done: false }
  const result = await change(durability)
  return await flushIfNeeded(disk(), durability, result)
}

/** Marks an update that changes a durable section. Throws ERR_FDB_OPTION if there is no state file. */
export function requireDisk(durability: Durability | null, disk: Disk | null): void {
  if (durability === null || durability.needed) return
  diskOrThrow(disk)
  durability.needed = true
}

/** `explicit`: the caller has set `durable: true`. Before ready() such a change is refused. */
async function makeAndFlush<R>(
  maybeDisk: Disk | null,
  change: (durability: Durability) => Promise<R>,
  explicit: boolean,
): Promise<R> {
  const disk = diskOrThrow(maybeDisk)
  if (explicit) disk.checkServing()
  const durability: Durability = { needed: true, done: false }
  return await flushIfNeeded(disk, durability, await change(durability))
}

function diskOrThrow(disk: Disk | null): Disk {
  if (disk !== null) return disk
  throw new FdbError(
    'ERR_FDB_OPTION',
    'option "durable" needs a state file: give join() a stateFile, or omit "durable"',
  )
}

/** The error has `details.made`: the change is in effect, but a power cut may undo it. */
async function flushIfNeeded<R>(disk: Disk | null, { needed, done }: Durability, result: R): Promise<R> {
  if (!needed || done) return result
  try {
    await disk?.flush()
  } catch (cause) {
    const reason = `the change was made, but may not be on disk yet: ${(cause as Error).message}`
    throw new FdbError('ERR_FDB_STATE_FILE', reason, { cause, retryable: true, details: { made: true } })
  }
  return result
}
