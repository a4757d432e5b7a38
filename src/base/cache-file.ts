import {
  appendFileSync,
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
import { nodeFiles } from './lazy.js'
import { OWN_INSTANCE } from './own-instance.js'

/** The header's numbers: u32le crc32 of the data, u32le length of the facts, which follow. */
const SUM_BYTES = 8
/** V8 copies data whose address is not a multiple of this, so that the facts are padded. */
const ALIGNMENT = 8

export interface CacheSubject {
  /** Readable part of the file name. */
  readonly name: string
  /** Facts that must match for the cache to be used. */
  readonly facts: string
  readonly package: string
  /** Owner and mode of the program's file. */
  readonly owner: { readonly uid: number; readonly mode: number }
}

export interface CacheKind<Stage extends string> {
  /** Begins the file; its stage and a line break follow. */
  readonly mark: string
  readonly stages: readonly Stage[]
  readonly extension: `.${string}`
  /** Maximum number of such files in a folder; older ones are removed. */
  readonly most: number
  /** Whether other users must not read the file. */
  readonly secret: boolean
}

/**
 * A file that a process writes for later processes of the same program, in the first of {@link cacheFolders} that can be used. The data are used without
 * checks, so the file must be where no other user can write.
 */
export class CacheFile<Stage extends string> {
  readonly #folders: readonly CacheFolder[]
  readonly #kind: CacheKind<Stage>
  readonly #name: string
  readonly #facts: Buffer

  constructor({ name, facts, package: folder, owner }: CacheSubject, kind: CacheKind<Stage>) {
    this.#folders = cacheFolders(folder, owner)
    this.#kind = kind
    const bytes = Buffer.byteLength(facts)
    this.#facts = Buffer.from(facts.padEnd(facts.length + ALIGNMENT - (bytes % ALIGNMENT)))
    this.#name = `${name}-${crc32(facts).toString(16).padStart(8, '0')}${kind.extension}`
  }

  /** Returns the data from the first folder that has a trustworthy and intact file; undefined if no folder has one. */
  read(): { data: Buffer; stage: Stage } | undefined {
    for (const folder of this.#folders) {
      try {
        const path = join(folder.path, this.#name)
        if (!isPrivate(folder, path)) continue
        const bytes = readFileSync(path)
        for (const stage of this.#kind.stages) {
          const mark = this.#markOf(stage)
          if (!mark.equals(bytes.subarray(0, mark.length))) continue
          const data = bytes.subarray(mark.length + SUM_BYTES + this.#facts.length)
          const head = this.#headOf(crc32(data), stage)
          if (bytes.subarray(0, head.length).equals(head)) return { data, stage }
        }
      } catch {
        // The next folder may have a file.
      }
    }
    return undefined
  }

  /** Writes the file. Throws if no folder is writable. */
  write(data: Buffer, stage: Stage): void {
    let failure: unknown
    for (const folder of this.#folders) {
      const made = this.#madeIn(folder)
      try {
        if (!this.#prepare(folder)) continue
        writeFileSync(made, this.#headOf(crc32(data), stage), { flag: 'wx', mode: this.#modeIn(folder) })
        // Not joined: the copy would stay in memory for long.
        appendFileSync(made, data)
        this.#finish(folder, made)
        return
      } catch (error) {
        failure = error
      } finally {
        rmSync(made, { force: true })
      }
    }
    if (failure !== undefined) throw failure
  }

  /** As {@link write}, without blocking the event loop: takes the next part when the one before is written. `parts` is called for each folder that is tried. */
  async writeParts(parts: () => Iterable<Buffer>, stage: Stage): Promise<void> {
    let failure: unknown
    for (const folder of this.#folders) {
      const made = this.#madeIn(folder)
      try {
        if (!this.#prepare(folder)) continue
        const file = await nodeFiles().open(made, 'wx', this.#modeIn(folder))
        try {
          let at = this.#headOf(0, stage).length
          let sum = 0
          for (const part of parts()) {
            sum = crc32(part, sum)
            await file.write(part, 0, part.length, at)
            at += part.length
          }
          const head = this.#headOf(sum, stage)
          await file.write(head, 0, head.length, 0)
        } finally {
          await file.close()
        }
        this.#finish(folder, made)
        return
      } catch (error) {
        failure = error
      } finally {
        rmSync(made, { force: true })
      }
    }
    if (failure !== undefined) throw failure
  }

  #madeIn(folder: CacheFolder): string {
    return join(folder.path, `${this.#name}.${OWN_INSTANCE}`)
  }

  #modeIn(folder: CacheFolder): number {
    return folder.mode & (this.#kind.secret ? 0o600 : 0o666)
  }

  /** Creates the folder. Returns whether a file may be written there. */
  #prepare(folder: CacheFolder): boolean {
    if (!folder.mayWrite) return false
    mkdirSync(folder.path, { recursive: true, mode: folder.mode })
    return isPrivate(folder)
  }

  #finish(folder: CacheFolder, made: string): void {
    renameSync(made, join(folder.path, this.#name))
    removeOldest(folder.path, this.#kind)
  }

  /** Returns the header, which identifies the program and protects the data. */
  #headOf(sumOfData: number, stage: Stage): Buffer {
    const sum = Buffer.alloc(SUM_BYTES)
    sum.writeUInt32LE(sumOfData)
    sum.writeUInt32LE(this.#facts.length, 4)
    return Buffer.concat([this.#markOf(stage), sum, this.#facts])
  }

  #markOf(stage: Stage): Buffer {
    return Buffer.from(`${this.#kind.mark}${stage.padEnd(6)}\n`, 'latin1')
  }
}

/** Also removes unfinished files of processes that were killed. */
function removeOldest(
  folder: string,
  { extension, most }: Pick<CacheKind<never>, 'extension' | 'most'>,
): void {
  const files = readdirSync(folder)
    .filter(name => name.endsWith(extension) || name.includes(`${extension}.`))
    .map(name => join(folder, name))
  const byAge = files
    .map(path => ({ path, at: statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0 }))
    .toSorted((a, b) => b.at - a.at)
  for (const { path } of byAge.slice(most)) rmSync(path, { force: true })
}

export interface CacheFolder {
  readonly path: string
  /** The only user that may own the folder and its files. */
  readonly uid: number
  /** Whether {@link isPrivate} also checks the parent folders, in which another user could replace this folder. */
  readonly guarded: boolean
  readonly mayWrite: boolean
  /** Mode of a new folder; its files get the same without execute permission. */
  readonly mode: number
}

/** Environment variable: the cache folder; `off`: no cache. */
const VARIABLE = 'FD_BROKER_CODE_CACHE'
const OTHERS_WRITE = 0o022

/**
 * Returns cache folders, best first: in the package's folder, if the owner of the program also owns it (that user could change the program
 * anyway), then this user's cache folder. A folder that other users can write to is neither read nor written.
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

/** Returns the user's cache folder: the first one that systemd names in CACHE_DIRECTORY, else that of XDG_CACHE_HOME, else `~/.cache`. */
function userFolder(env: NodeJS.ProcessEnv): string {
  const given = [env.CACHE_DIRECTORY?.split(':')[0], env.XDG_CACHE_HOME].find(
    path => path && isAbsolute(path),
  )
  return given ?? join(homedir(), '.cache')
}

/** Returns whether only the folder's user can have written to it, and to `file` if given. Throws if one does not exist. */
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

/** Whether root or the user owns all parent folders, and other users cannot rename their entries. */
function isGuarded(path: string, uid: number): boolean {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    const { uid: owner, mode } = lstatSync(folder)
    const sticky = (mode & 0o1000) !== 0
    if ((owner !== 0 && owner !== uid) || ((mode & OTHERS_WRITE) !== 0 && !sticky)) return false
    if (folder === dirname(folder)) return true
  }
}
