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
import { Module } from 'node:module'
import { homedir } from 'node:os'
import { dirname, isAbsolute, join } from 'node:path'
import { Script } from 'node:vm'
import { crc32 } from 'node:zlib'
import { OWN_INSTANCE } from '../base/own-instance.js'

/**
 * When a process writes the cache: after a command (`ended`), when a server serves (`served`), after it has taken over from a predecessor
 * (`joined`), or when it was replaced (`left`). At each later stage V8 has compiled more functions.
 */
export type CacheStage = 'ended' | 'served' | 'joined' | 'left'

const STAGES: readonly CacheStage[] = ['ended', 'served', 'joined', 'left']
const MARK_BYTES = 24
/** The header's numbers: u32le crc32 of V8's data, u32le length of the facts, which follow. */
const SUM_BYTES = 8
/** V8 copies data whose address is not a multiple of this, so that the facts are padded. */
const ALIGNMENT = 8
/** Maximum number of files in a folder, for two releases of all commands, or two Node versions; older ones are removed. */
export const MOST_FILES = 56

export interface CacheSubject {
  /** Readable part of the file name. */
  readonly name: string
  /** Facts that must match for the cache to be used; V8 also checks its own version and flags. */
  readonly facts: string
  readonly package: string
  /** Owner and mode of the program's file. */
  readonly owner: { readonly uid: number; readonly mode: number }
}

/** A file of compiled code. V8 runs the code without checks, so the file must be where no other user can write: see {@link cacheFolders}. */
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

  /** Returns the cache from the first folder that has a trustworthy and intact one; undefined if no folder has one. */
  read(): { data: Buffer; stage: CacheStage } | undefined {
    for (const folder of this.#folders) {
      try {
        const path = join(folder.path, this.#name)
        if (!isPrivate(folder, path)) continue
        const bytes = readFileSync(path)
        const stage = STAGES.find(each => markOf(each).equals(bytes.subarray(0, MARK_BYTES))) ?? 'ended'
        const data = bytes.subarray(MARK_BYTES + SUM_BYTES + this.#facts.length)
        const head = this.#headOf(data, stage)
        if (bytes.subarray(0, head.length).equals(head)) return { data, stage }
      } catch {
        // The next folder may have a cache.
      }
    }
    return undefined
  }

  /** Writes the cache. Throws if no folder is writable. */
  write(data: Buffer, stage: CacheStage): void {
    let failure: unknown
    for (const folder of this.#folders) {
      try {
        if (!folder.mayWrite) continue
        mkdirSync(folder.path, { recursive: true, mode: folder.mode })
        if (!isPrivate(folder)) continue
        const path = join(folder.path, this.#name)
        const made = `${path}.${OWN_INSTANCE}`
        try {
          writeFileSync(made, Buffer.concat([this.#headOf(data, stage), data]), {
            flag: 'wx',
            mode: folder.mode & 0o666,
          })
          renameSync(made, path)
        } finally {
          rmSync(made, { force: true })
        }
        removeOldest(folder.path)
        return
      } catch (error) {
        failure = error
      }
    }
    if (failure !== undefined) throw failure
  }

  /** Returns the header, which identifies the program and protects the data: V8 does not verify it. */
  #headOf(data: Buffer, stage: CacheStage): Buffer {
    const sum = Buffer.alloc(SUM_BYTES)
    sum.writeUInt32LE(crc32(data))
    sum.writeUInt32LE(this.#facts.length, 4)
    return Buffer.concat([markOf(stage), sum, this.#facts])
  }
}

function markOf(stage: CacheStage): Buffer {
  return Buffer.from(`fd-broker code 2 ${stage.padEnd(6)}\n`, 'latin1')
}

export function isAsGood(stage: CacheStage, when: CacheStage): boolean {
  return STAGES.indexOf(stage) >= STAGES.indexOf(when)
}

function removeOldest(folder: string): void {
  const files = readdirSync(folder).map(name => join(folder, name))
  const byAge = files
    .map(path => ({ path, at: statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0 }))
    .toSorted((a, b) => b.at - a.at)
  for (const { path } of byAge.slice(MOST_FILES)) rmSync(path, { force: true })
}

interface CacheFolder {
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

/**
 * A CommonJS file that is compiled with V8's code cache of an earlier start. A cache made after running contains the functions that were
 * called, which halves the time of a start.
 */
export class CachedProgram {
  readonly #file: string
  readonly #cache: CodeCache
  #script: Script | undefined
  /** Stage of the cache that was read, if V8 accepted it, or that was written last. */
  #stage: CacheStage | undefined
  /** Size of the cache that was read, if V8 accepted it. */
  #bytes = 0

  /** Cached code that V8 accepts as long as it has the flags of the start. */
  #flags: Buffer | undefined

  constructor(file: string, cache: CodeCache) {
    this.#file = file
    this.#cache = cache
  }

  /** Runs the file and returns its exports. */
  load(require: NodeJS.Require): unknown {
    this.#flags = new Script('1').createCachedData()
    const found = this.#cache.read()
    // The build ensures that the file is ASCII.
    const source = Module.wrap(readFileSync(this.#file, 'latin1'))
    const script = new Script(source, { filename: this.#file, ...(found && { cachedData: found.data }) })
    if (found && !script.cachedDataRejected) {
      this.#stage = found.stage
      this.#bytes = found.data.length
    }
    this.#script = script
    const module = { exports: {} }
    script.runInThisContext()(module.exports, require, module, this.#file, dirname(this.#file))
    return module.exports
  }

  /**
   * Writes the functions compiled so far, unless the cache already has them from this or a later stage, or V8 has other flags than at the
   * start: it would not accept them. Takes about 20 ms. Never throws.
   */
  save(when: CacheStage): void {
    if (this.#script === undefined) return
    if (this.#stage !== undefined && isAsGood(this.#stage, when)) return
    try {
      // Another text of the same length, which V8 has not compiled yet: V8 compares lengths, and the flags.
      if (new Script('2', { cachedData: this.#flags }).cachedDataRejected) return
      this.#stage = when
      const data = this.#script.createCachedData()
      // V8 discards functions that were not called for a while: a smaller cache would lack them.
      if (data.length >= this.#bytes) this.#cache.write(data, when)
    } catch {
      // The cache is lost: the next start takes longer.
    }
  }
}
