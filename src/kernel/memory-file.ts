import { openSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { type NativeError, native } from './native.js'
import { OwnedFd } from './owned.js'

export {
  SEAL_EXEC,
  SEAL_FUTURE_WRITE,
  SEAL_GROW,
  SEAL_SEAL,
  SEAL_SHRINK,
  SEAL_WRITE,
} from './native.js'

/**
 * Returns an empty file in memory, which can be sealed where the kernel has such files ({@link sealsOf}), and cannot be executed where
 * the kernel has SEAL_EXEC. `name` is what /proc shows.
 */
export function memoryFile(name: string, label: string): OwnedFd {
  try {
    return OwnedFd.own(native.memfd(name), label)
  } catch (cause) {
    const { code, syscall } = cause as NativeError
    // The file without a name that takes the place of memory.
    if (syscall !== 'mkostemp') throw cause
    throw new FdbError(
      'ERR_FDB_NO_SEALS',
      `memfd_create is missing or refused (a filter of system calls, seccomp), and no file can be made in its place in ${process.env.TMPDIR || '/tmp'} (${code}): allow memfd_create, or set TMPDIR to a folder that can be written to`,
      { cause },
    )
  }
}

/** Null where the file knows no seals. */
export function sealsOf(fd: OwnedFd): number | null {
  return native.getSeals(fd.raw)
}

/** How often the kernel is asked while pages are held. */
const ATTEMPTS = 4

/**
 * Throws EPERM on a read-only descriptor and where the seals are sealed, and EBUSY where a process maps it writable or holds pages of it
 * for longer than half a second. For pages that are held for a moment (a read in another process, compaction, reclaim) the kernel waits 150
 * ms and then says EBUSY as well (memfd_wait_for_pins() in mm/memfd.c): this is tried again. For a mapping it says so at once.
 */
export function addSeals(fd: OwnedFd, seals: number): void {
  for (let left = ATTEMPTS - 1; ; left--) {
    try {
      native.addSeals(fd.raw, seals)
      return
    } catch (error) {
      if (left === 0 || (error as NativeError).code !== 'EBUSY') throw error
    }
  }
}

/**
 * The same memory with an open file description of its own, by which it can neither be written nor sealed, unless the memory belongs to the holder's user.
 * Returns a duplicate for another user's memory (this process was another user when it was made): the kernel opens it for its owner and root only.
 */
export function reopenReadOnly(fd: OwnedFd, label: string): OwnedFd {
  return reopened(fd, () => OwnedFd.own(native.reopenReadOnly(fd.raw), label))
}

/** The same memory for writing, by a descriptor that may be read-only; of another user's memory a duplicate. */
export function reopenWritable(fd: OwnedFd, label: string): OwnedFd {
  return reopened(fd, () => {
    const raw = openSync(`/proc/self/fd/${fd.raw}`, 'r+')
    native.adopt(raw)
    return OwnedFd.own(raw, label)
  })
}

function reopened(fd: OwnedFd, open: () => OwnedFd): OwnedFd {
  try {
    return open()
  } catch (error) {
    const { code } = error as NativeError
    if (code === 'EACCES') return fd.dup()
    if (code !== 'ENOENT') throw error
    throw new FdbError(
      'ERR_FDB_NO_PROC',
      'there is no /proc here, through which memory is opened read-only for another process: mount it (mount -t proc proc /proc) in this mount namespace',
      { cause: error },
    )
  }
}

const NOTHING = new Int32Array(new SharedArrayBuffer(4))

/** Holds the thread for so many milliseconds: where who is waited for is another process, and quick. */
export function sleepSync(ms: number): void {
  Atomics.wait(NOTHING, 0, 0, ms)
}
