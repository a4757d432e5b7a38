import { FdbError } from '../errors.js'

export interface Disk {
  /** Throws ERR_FDB_FENCED in a process that does not write there. */
  checkServing(): void
  /** Resolves when everything that is in the log now is on the disk. */
  flush(): Promise<void>
}

export interface Durability {
  /** It must be on the disk before it is acknowledged. An update may learn that only when it is made. */
  needed: boolean
  /** The process that made it, in place of this one, has brought it to its disk. */
  done: boolean
}

interface DurableOption {
  durable?: boolean
}

/** Makes a change; a durable one resolves once it is on the disk. `byDefault`: of a durable section, where the caller does not say. */
export function makeDurably<R>(
  change: (durability: Durability | null) => Promise<R>,
  { durable }: DurableOption,
  disk: Disk | null,
  byDefault = false,
): Promise<R> {
  return (durable ?? byDefault) ? makeAndFlush(disk, change, durable === true) : change(null)
}

/** The same of an update, which is durable by default where it changes a durable section: see {@link requireDisk}. */
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

/** The update changes a durable section. Throws ERR_FDB_OPTION where there is no disk. */
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

/** The error's `details.made`: the change counts and is read, but a power cut may take it back. */
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
