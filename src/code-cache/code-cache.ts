import {
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { dirname, isAbsolute, join } from 'node:path'
import { crc32 } from 'node:zlib'
import { OWN_INSTANCE } from '../base/own-instance.js'

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
/** Files of other commands, releases and versions of Node: older files are removed. */
const MOST_FILES = 16

export interface CacheSubject {
  /** The file's name, for a person who looks into the folder. */
  readonly name: string
  /** The facts that must be the same for it to be used; V8 checks its own version and flags besides. */
  readonly facts: string
  /** The package's folder. */
  readonly package: string
  /** The owner of the program's file. */
  readonly owner: { readonly uid: number; readonly mode: number }
}

/**
 * Compiled code in a file. It is trusted as the program is, so it is read and written only where no other user can write: see
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

  /** A damaged cache, or one of another program, must not come to V8, which believes its input. */
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

/** A folder of compiled code. */
interface CacheFolder {
  readonly path: string
  /** The only user that may own it, and the files in it. */
  readonly uid: number
  /** It is below the user's own folders: no other user may replace one of the folders on the way there. */
  readonly guarded: boolean
  readonly mayWrite: boolean
  /** The mode of the folder when it is made; its files have the same without the right to execute. */
  readonly mode: number
}

/** Names a folder for compiled code; `off`: there is none. */
const VARIABLE = 'FD_BROKER_CODE_CACHE'
const OTHERS_WRITE = 0o022

/**
 * Folders for compiled code, the best first: in the package's own folder, if it belongs to the owner of the program (who could change that,
 * too), and then in the cache folder of this user. A folder that another user could write to is neither read nor written.
 */
export function cacheFolders(
  root: string,
  program: { readonly uid: number; readonly mode: number },
  env: NodeJS.ProcessEnv = process.env,
): CacheFolder[] {
  const user = process.geteuid?.()
  const named = env[VARIABLE]
  if (user === undefined || named === 'off') return []
  const own = (path: string): CacheFolder => ({ path, uid: user, guarded: true, mayWrite: true, mode: 0o700 })
  if (named) return isAbsolute(named) ? [own(named)] : []
  const beside: CacheFolder = {
    path: join(root, '.code-cache'),
    uid: program.uid,
    guarded: false,
    mayWrite: program.uid === user,
    mode: 0o755,
  }
  return [...((program.mode & OTHERS_WRITE) === 0 ? [beside] : []), own(join(userFolder(env), 'fd-broker'))]
}

/** CACHE_DIRECTORY is systemd's: the first of a list. */
function userFolder(env: NodeJS.ProcessEnv): string {
  const given = [env.CACHE_DIRECTORY?.split(':')[0], env.XDG_CACHE_HOME].find(
    path => path && isAbsolute(path),
  )
  return given ?? join(homedir(), '.cache')
}

/** Returns whether only its user can have written to it; with `file`, also to that. Throws when one of them is not there. */
export function isPrivate({ path, uid, guarded }: CacheFolder, file?: string): boolean {
  const isOwn = (stats: { uid: number; mode: number }) =>
    stats.uid === uid && (stats.mode & OTHERS_WRITE) === 0
  const folder = lstatSync(path)
  if (!folder.isDirectory() || !isOwn(folder)) return false
  if (guarded && !isGuarded(realpathSync(path), uid)) return false
  if (file === undefined) return true
  const stats = lstatSync(file)
  return stats.isFile() && isOwn(stats)
}

/** Whether all folders above belong to root or to the user, and others cannot rename what is in them. */
function isGuarded(path: string, uid: number): boolean {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    const { uid: owner, mode } = lstatSync(folder)
    const sticky = (mode & 0o1000) !== 0
    if ((owner !== 0 && owner !== uid) || ((mode & OTHERS_WRITE) !== 0 && !sticky)) return false
    if (folder === dirname(folder)) return true
  }
}
