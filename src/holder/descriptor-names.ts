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
import type { Entry } from './registry.js'

/** The memory file's name, as /proc shows it. */
export const NOTE_NAME = 'fdb-names'
const DIGITS = 10
const MOST_BYTES = 8 * 1024 * 1024

/** Facts that a hung process cannot report any more. */
export interface NotedDescriptors {
  readonly service: string
  readonly generation: number
  readonly serviceStartedAt: number
  readonly entries: readonly (Pick<Entry, 'name' | 'role' | 'spec'> & {
    readonly ino: string
    /** See {@link keptName}. */
    readonly keptAs: string
    /** Which descriptor of that process it is, and of which file system. */
    readonly number: number
    readonly dev: string
  })[]
  /** Without one of these the state is not whole. Absent: it is not said. */
  readonly segments?: readonly string[]
}

/**
 * The names of what an embedded holder holds, in a memory file of its own, which others read when the process hangs
 * (`upgrade --kill-stuck`): a descriptor that they take from it has no name. Written after each change, at once and whole.
 */
export class DescriptorNames {
  readonly #facts: Omit<NotedDescriptors, 'entries' | 'segments'>
  readonly #entries: () => readonly Entry[]
  readonly #segments: (() => readonly string[]) | null
  #fd: OwnedFd | null = null
  #soon: NodeJS.Immediate | undefined

  constructor(
    facts: Omit<NotedDescriptors, 'entries' | 'segments'>,
    entries: () => readonly Entry[],
    segments: (() => readonly string[]) | null = null,
  ) {
    this.#facts = facts
    this.#entries = entries
    this.#segments = segments
  }

  /** Several changes of one turn are written together. */
  changed(): void {
    this.#soon ??= setImmediate(() => {
      this.#soon = undefined
      this.#write()
    })
  }

  /** The file, as it was written last. Borrowed; null: there is none. */
  get file(): OwnedFd | null {
    if (this.#fd === null) this.#write()
    return this.#fd
  }

  /** Says how things are now. */
  write(): void {
    this.#write()
  }

  /** Idempotent. */
  close(): void {
    clearImmediate(this.#soon)
    this.#fd?.close()
    this.#fd = null
  }

  #write(): void {
    try {
      this.#fd ??= memoryFile(NOTE_NAME, 'names of what is held')
      const entries = this.#entries()
      const fds = entries.map(({ fd }) => fd)
      const [seen, numbers] = [inspect(fds), numbersOf(fds)]
      const noted: NotedDescriptors = {
        ...this.#facts,
        entries: entries.map(({ name, role, spec }, i) => {
          const about = seen[i]!
          const { dev, ino } = about
          return { name, role, spec, ino, keptAs: keptName(name, about), number: numbers[i]!, dev }
        }),
        ...(this.#segments !== null && { segments: this.#segments() }),
      }
      const text = Buffer.from(JSON.stringify(noted))
      const whole = Buffer.concat([Buffer.from(String(text.length).padStart(DIGITS)), text])
      writeAt(this.#fd, whole, 0, whole.length, 0)
    } catch {
      // No descriptor or memory left: a process that hangs now takes its listeners with it.
    }
  }
}

/**
 * The name under which a service manager keeps an entry. A socket is told by its inode, whatever its name; any other descriptor by its
 * name: eventfds share one inode, each file system has inodes of its own, and one file may be open for reading here and for writing there.
 */
export function keptName(name: string, { type, ino }: Pick<Inspected, 'type' | 'ino'>): string {
  if (type === 'socket') return `entry-${ino}`
  return `entry-${ino}-${nodeCrypto().createHash('sha256').update(name).digest('hex').slice(0, 16)}`
}

/** Null: nothing that can be read. */
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
