import { FdbError } from '../errors.js'

export interface Disk {
  /** Throws ERR_FDB_FENCED in a process that does not write there. */
  checkServing(): void
  /** Resolves when the disk has everything that is in the log now. */
  flush(): Promise<void>
}

export interface Durability {
  /** The change must reach the disk before it resolves. An update may know that only once it has run. */
  needed: boolean
  /** The process that made the change for this one has brought it to its disk. */
  done: boolean
}

interface DurableOption {
  durable?: boolean
}

/** Makes a change; a durable one resolves once it is on the disk. `byDefault`: the section's choice, if the caller makes none. */
export function makeDurably<R>(
  change: (durability: Durability | null) => Promise<R>,
  { durable }: DurableOption,
  disk: Disk | null,
  byDefault = false,
): Promise<R> {
  return (durable ?? byDefault) ? makeAndFlush(disk, change, durable === true) : change(null)
}

/** As {@link makeDurably}, for an update, which is durable by default if it changes a durable section, see {@link requireDisk}. */
export async function updateDurably<R>(
  change: (durability: Durability | null) => Promise<R>,
  asked: DurableOption,
  disk: () => Disk | null,
): Promise<R> {
  if (asked.durable !== undefined) return await makeDurably(change, asked, disk())
  const durability: Durability = { needed: false, done: false }
  const result = await change(durability)
  return await flushIfNeeded(disk(), durability, result)
}

/** Marks an update that changes a durable section. Throws ERR_FDB_OPTION without a disk. */
export function requireDisk(durability: Durability | null, disk: Disk | null): void {
  if (durability === null || durability.needed) return
  diskOrThrow(disk)
  durability.needed = true
}

async function makeAndFlush<R>(
  given: Disk | null,
  change: (durability: Durability) => Promise<R>,
  asked: boolean,
): Promise<R> {
  const disk = diskOrThrow(given)
  if (asked) disk.checkServing()
  const durability: Durability = { needed: true, done: false }
  return await flushIfNeeded(disk, durability, await change(durability))
}

function diskOrThrow(disk: Disk | null): Disk {
  if (disk !== null) return disk
  throw new FdbError(
    'ERR_FDB_OPTION',
    'option "durable" needs a state file: give join() a stateFile, or leave it out',
  )
}

/** `details.made` of the error: the change counts, but a power cut may undo it. */
async function flushIfNeeded<R>(disk: Disk | null, { needed, done }: Durability, result: R): Promise<R> {
  if (!needed || done) return result
  try {
    await disk?.flush()
  } catch (cause) {
    const why = `the change is made, and is not known to be on the disk yet: ${(cause as Error).message}`
    throw new FdbError('ERR_FDB_STATE_FILE', why, { cause, retryable: true, details: { made: true } })
  }
  return result
}
