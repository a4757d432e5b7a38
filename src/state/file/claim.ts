import { lstatSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { Logger } from '../../base/logger.js'
import { FdbError } from '../../errors.js'
import { lockIfPossible, type OwnedFd, openFile, statOf } from '../../kernel/index.js'
import { CREATE, isTemporary, openStateFile, SECRET_MODE, temporaryPath } from './files.js'

/** A process that ends may release its control path before its state file. */
const ENDING_MS = 2000
const CLAIM_LOOK_MS = 20

/**
 * The right of a first process to a state file, from its start until it has written its own file, whose lock then shows that it is in use. A successor
 * needs no claim: its predecessor, which may be stopped and still hold the lock, has handed the state over.
 */
export class FileClaim {
  #held: readonly OwnedFd[]
  readonly #beside: string | null

  private constructor(held: readonly OwnedFd[], beside: string | null) {
    this.#held = held
    this.#beside = beside
  }

  /**
   * Rejects with ERR_FDB_STATE_FILE_IN_USE if another process writes the file or starts with it. Two processes that start at the same time see each other's
   * claims, which are files beside the state file. Removes those that killed processes left there.
   */
  static async take(path: string, logger: Pick<Logger, 'warn'>, patienceMs = ENDING_MS): Promise<FileClaim> {
    const until = performance.now() + patienceMs
    for (;;) {
      const claim = FileClaim.#tryTake(path, logger)
      if (claim instanceof FileClaim) return claim
      if (performance.now() >= until) throw inUseError(path, claim.inode)
      // At random, so that of two that wait for each other one is the first.
      await new Promise(resolve => setTimeout(resolve, CLAIM_LOOK_MS * (1 + Math.random())))
    }
  }

  /** Returns the inode that is in use, or the claim. */
  static #tryTake(path: string, logger: Pick<Logger, 'warn'>): FileClaim | { inode: bigint } {
    const held: OwnedFd[] = []
    const beside = temporaryPath(path)
    let taken = false
    let claimed = false
    const isFree = (fd: OwnedFd) => {
      const locked = lockIfPossible(fd)
      if (locked === null)
        logger.warn(
          { path },
          'the file system of the state file has no locks: fd-broker cannot notice another process that writes the file',
        )
      return locked !== false
    }
    try {
      const own = createClaim(beside)
      claimed = own !== null
      if (own !== null) {
        held.push(own)
        lockIfPossible(own)
      }
      const present = openStateFile(path, { write: true })
      if (present !== null) {
        held.push(present)
        const { ino } = statOf(present)
        if (!isFree(present)) return { inode: BigInt(ino) }
        // Another process has just replaced it.
        if (inodeAt(path) !== ino) return { inode: 0n }
      }
      const leftovers: string[] = []
      for (const other of othersBeside(path, beside)) {
        using fd = other.fd
        if (lockIfPossible(fd) === false) return { inode: BigInt(statOf(fd).ino) }
        leftovers.push(other.path)
      }
      // Another process has taken it for a leftover, before it was locked.
      if (own !== null && statOf(own).nlink === 0) return { inode: 0n }
      taken = true
      for (const each of leftovers) removeQuietly(each)
      return new FileClaim(held, claimed ? beside : null)
    } finally {
      if (!taken) {
        for (const fd of held) fd.close()
        if (claimed) rmSync(beside, { force: true })
      }
    }
  }

  /** Idempotent. */
  close(): void {
    for (const fd of this.#held) fd.close()
    this.#held = []
    if (this.#beside !== null) removeQuietly(this.#beside)
  }
}

function removeQuietly(path: string): void {
  try {
    rmSync(path, { force: true })
  } catch {
    // Removal fails on a read-only disk; the next writer removes the file.
  }
}

/** Returns null on a disk that is full or read-only: the state file cannot be written either, so a claim has nothing to protect. */
function createClaim(beside: string): OwnedFd | null {
  try {
    return openFile(beside, CREATE, `claim ${beside}`, SECRET_MODE)
  } catch {
    return null
  }
}

function* othersBeside(path: string, own: string): Generator<{ path: string; fd: OwnedFd }> {
  const folder = dirname(path)
  let names: string[] = []
  try {
    names = readdirSync(folder)
  } catch {
    // The folder does not exist, or may not be read: opening the state file reports that.
  }
  for (const name of names) {
    if (!isTemporary(name, path) || name === basename(own)) continue
    const other = join(folder, name)
    let fd: OwnedFd | null = null
    try {
      fd = openStateFile(other)
    } catch {
      // A link, or a file of another user.
    }
    if (fd !== null) yield { path: other, fd }
  }
}

/** `inode`: that of the file in use, or 0. */
export function inUseError(path: string, inode: bigint): FdbError {
  const pid = lockHolder(inode)
  const holder = pid === null ? 'another process' : `process ${pid}`
  return new FdbError(
    'ERR_FDB_STATE_FILE_IN_USE',
    `${holder} writes the state file ${path}: two processes with different control paths would replace each other's file. Start this process at the ` +
      'control path of the other one, to take over from it, or give another path for the state file',
    { details: { path, pid } },
  )
}

/** Returns the process with an flock() of this inode; null if it is unknown, as for a process of another PID namespace. */
function lockHolder(inode: bigint): number | null {
  let locks = ''
  try {
    locks = readFileSync('/proc/locks', 'latin1')
  } catch {
    return null
  }
  const found = [...locks.matchAll(/ FLOCK .*? (\d+) [0-9a-f]+:[0-9a-f]+:(\d+) /g)].filter(
    ([, , each]) => BigInt(each!) === inode,
  )
  const pid = Number(found.length === 1 ? found[0]![1] : 0)
  return pid > 0 && pid !== process.pid ? pid : null
}

/** Returns the inode of the file at the path; undefined if there is none. */
function inodeAt(path: string): number | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false })?.ino
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    throw new FdbError('ERR_FDB_STATE_FILE', `the state file ${path} cannot be looked up (${code})`, {
      cause,
    })
  }
}
