import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { OWN_INSTANCE } from '../base/own-instance.js'
import { type CacheFolder, cacheFolders, isPrivate } from './cache-folders.js'

/**
 * When it was made. A process that served has compiled more than one that came to its end; one that took over from another, more; and one
 * that did, and that another has taken over from, all there is.
 */
export type Kept = 'ended' | 'served' | 'joined' | 'left'

/** The later, the more is compiled. */
const ORDER: readonly Kept[] = ['ended', 'served', 'joined', 'left']
const MARK_BYTES = 24
/** u32le crc32 of what V8 has made, u32le length of the facts, which follow. */
const SUM_BYTES = 8
/** V8 copies what does not begin at a multiple of it. */
const ALIGNMENT = 8
/** Of other commands, releases and versions of Node: older files go. */
const MOST_FILES = 16

export interface CacheSubject {
  /** Of the file, for whoever looks into the folder. */
  readonly name: string
  /** What must be the same for it to be used; V8 checks its own version and flags besides. */
  readonly facts: string
  /** The package's folder. */
  readonly package: string
  /** Of the program's file. */
  readonly owner: { readonly uid: number; readonly mode: number }
}

/**
 * Compiled code in a file. It is trusted as the program is, so it is read and written only where nobody else can write: see
 * {@link cacheFolders}.
 */
export class CodeCache {
  readonly #folders: readonly CacheFolder[]
  readonly #name: string
  readonly #facts: Buffer

  constructor({ name, facts, package: folder, owner }: CacheSubject) {
    this.#folders = cacheFolders(folder, owner)
    const bytes = Buffer.byteLength(facts)
    this.#facts = Buffer.from(facts.padEnd(facts.length + ALIGNMENT - (bytes % ALIGNMENT)))
    this.#name = `${name}-${crc32(facts).toString(16).padStart(8, '0')}.v8`
  }

  /** Undefined: there is none, or none that can be trusted, or it is damaged. */
  read(): { data: Buffer; kept: Kept } | undefined {
    for (const folder of this.#folders) {
      try {
        const path = join(folder.path, this.#name)
        if (!isPrivate(folder, path)) continue
        const bytes = readFileSync(path)
        const kept = ORDER.find(each => markOf(each).equals(bytes.subarray(0, MARK_BYTES))) ?? 'ended'
        const data = bytes.subarray(MARK_BYTES + SUM_BYTES + this.#facts.length)
        const head = this.#headOf(data, kept)
        if (bytes.subarray(0, head.length).equals(head)) return { data, kept }
      } catch {
        // The next folder may have one.
      }
    }
    return undefined
  }

  /** Throws when it can be written nowhere. */
  write(data: Buffer, kept: Kept): void {
    let failure: unknown
    for (const folder of this.#folders) {
      try {
        if (!folder.mayWrite) continue
        mkdirSync(folder.path, { recursive: true, mode: folder.mode })
        if (!isPrivate(folder)) continue
        const path = join(folder.path, this.#name)
        const made = `${path}.${OWN_INSTANCE}`
        try {
          writeFileSync(made, Buffer.concat([this.#headOf(data, kept), data]), {
            flag: 'wx',
            mode: folder.mode & 0o666,
          })
          renameSync(made, path)
        } finally {
          rmSync(made, { force: true })
        }
        tidy(folder.path)
        return
      } catch (error) {
        failure = error
      }
    }
    if (failure !== undefined) throw failure
  }

  /** What is damaged, or was made of another program, must not come to V8, which believes what it reads. */
  #headOf(data: Buffer, kept: Kept): Buffer {
    const sum = Buffer.alloc(SUM_BYTES)
    sum.writeUInt32LE(crc32(data))
    sum.writeUInt32LE(this.#facts.length, 4)
    return Buffer.concat([markOf(kept), sum, this.#facts])
  }
}

function markOf(kept: Kept): Buffer {
  return Buffer.from(`fd-broker code 2 ${kept.padEnd(6)}\n`, 'latin1')
}

export function isAsGood(kept: Kept, when: Kept): boolean {
  return ORDER.indexOf(kept) >= ORDER.indexOf(when)
}

function tidy(folder: string): void {
  const files = readdirSync(folder).map(name => join(folder, name))
  const byAge = files
    .map(path => ({ path, at: statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0 }))
    .toSorted((a, b) => b.at - a.at)
  for (const { path } of byAge.slice(MOST_FILES)) rmSync(path, { force: true })
}
