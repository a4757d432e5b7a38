import { nodeCrypto } from '../base/lazy.js'
import {
  type Inspected,
  inspect,
  memoryFile,
  numbersOf,
  type OwnedFd,
  readAt,
  sizeOf,
  writeAt,
} from '../kernel/index.js'
import { type Entry, type EntryTexts, entryTexts } from './entry.js'

/** The memory file's name, which /proc/PID/fd shows. */
export const NOTE_NAME = 'fdb-names'
const DIGITS = 10
const MOST_BYTES = 8 * 1024 * 1024

/** The contents of the memory file: facts about an embedded holder that other processes can read even while it hangs. */
export interface NotedDescriptors {
  readonly service: string
  readonly generation: number
  readonly serviceStartedAt: number
  /**
   * How the process was started: /proc has its present title and folder instead, and a link in the folder's path is resolved there. Absent in
   * the FD store, and from earlier releases.
   */
  readonly start?: { readonly argv: readonly string[]; readonly cwd: string }
  readonly entries: readonly (Required<EntryTexts> & {
    readonly ino: string
    /** See {@link fdStoreName}. */
    readonly keptAs: string
    /** The number of the descriptor in the process that wrote the file, and the device of its inode. */
    readonly number: number
    readonly dev: string
  })[]
  /** Only in the file that systemd's FD store keeps: the names under which it keeps the segments. */
  readonly segments?: readonly string[]
}

/** A write that has failed is repeated after this time. */
const RETRY_MS = 1_000

/**
 * Writes the names of an embedded holder's descriptors to a memory file, after each change. If the holder hangs, `upgrade --kill-stuck`
 * duplicates its descriptors through the kernel, which knows no names, and reads the names in this file.
 */
export class DescriptorNames {
  readonly #facts: Omit<NotedDescriptors, 'entries' | 'segments'>
  readonly #entries: () => readonly Entry[]
  readonly #segments: (() => readonly string[]) | null
  #fd: OwnedFd | null = null
  #scheduled: NodeJS.Immediate | undefined
  /** Writes again after a failure. */
  #retry: NodeJS.Timeout | undefined

  constructor(
    facts: Omit<NotedDescriptors, 'entries' | 'segments'>,
    entries: () => readonly Entry[],
    segments: (() => readonly string[]) | null = null,
  ) {
    this.#facts = facts
    this.#entries = entries
    this.#segments = segments
  }

  /** Schedules one write for all changes in this turn of the event loop. */
  changed(): void {
    this.#scheduled ??= setImmediate(() => {
      this.#scheduled = undefined
      this.write()
    })
  }

  /** The memory file, or null if it could not be made. Borrowed. */
  get file(): OwnedFd | null {
    if (this.#fd === null) this.write()
    return this.#fd
  }

  close(): void {
    clearImmediate(this.#scheduled)
    clearTimeout(this.#retry)
    this.#fd?.close()
    this.#fd = null
  }

  write(): void {
    try {
      this.#fd ??= memoryFile(NOTE_NAME, 'names of descriptors')
      const entries = this.#entries()
      const fds = entries.map(({ fd }) => fd)
      const [seen, numbers] = [inspect(fds), numbersOf(fds)]
      const noted: NotedDescriptors = {
        ...this.#facts,
        entries: entries.map((entry, i) => {
          const about = seen[i]!
          const { dev, ino } = about
          const keptAs = fdStoreName(entry.name, about)
          return { ...entryTexts(entry), ino, keptAs, number: numbers[i]!, dev }
        }),
        ...(this.#segments !== null && { segments: this.#segments() }),
      }
      const text = Buffer.from(JSON.stringify(noted))
      const whole = Buffer.concat([Buffer.from(String(text.length).padStart(DIGITS)), text])
      writeAt(this.#fd, whole, 0, whole.length, 0)
      clearTimeout(this.#retry)
      this.#retry = undefined
    } catch {
      // This process lacks descriptors or memory. If it hangs now, its listeners cannot be recovered.
      this.#retry ??= setTimeout(() => {
        this.#retry = undefined
        this.write()
      }, RETRY_MS).unref()
    }
  }
}

/**
 * Returns the name of an entry in systemd's FD store. A socket is identified by its inode. For other descriptors a hash of the entry's name is
 * added: all eventfds share one inode, inodes differ only within a file system, and a file may be open twice, for reading and for writing.
 */
export function fdStoreName(name: string, { type, ino }: Pick<Inspected, 'type' | 'ino'>): string {
  if (type === 'socket') return `entry-${ino}`
  return `entry-${ino}-${nodeCrypto().createHash('sha256').update(name).digest('hex').slice(0, 16)}`
}

/** Returns the contents of the memory file `fd`, or null if they are not valid. */
export function readDescriptorNames(fd: OwnedFd): NotedDescriptors | null {
  try {
    const size = sizeOf(fd)
    if (size > MOST_BYTES) return null
    const bytes = Buffer.alloc(size)
    readAt(fd, bytes, 0, size, 0)
    const length = Number(bytes.toString('latin1', 0, DIGITS))
    const noted = JSON.parse(bytes.toString('utf8', DIGITS, DIGITS + length)) as NotedDescriptors
    return typeof noted.service === 'string' && Array.isArray(noted.entries) ? noted : null
  } catch {
    return null
  }
}
