import { openSync } from 'node:fs'
import { FdbError } from '../errors.js'
import { type NativeError, native } from './native.js'
import { OwnedFd } from './owned.js'

/**
 * Creates an empty file in memory. The file can be sealed if the kernel supports it ({@link sealsOf}), and cannot be executed if the kernel has
 * SEAL_EXEC. /proc shows `name`.
 */
export function memoryFile(name: string, label: string): OwnedFd {
  try {
    return OwnedFd.own(native.memfd(name), label)
  } catch (cause) {
    const { code, syscall } = cause as NativeError
    // After a failed memfd_create the addon tries an unlinked temporary file (mkostemp).
    if (syscall !== 'mkostemp') throw cause
    throw new FdbError(
      'ERR_FDB_NO_SEALS',
      `memfd_create is missing or refused (by seccomp), and no temporary file can be created instead in ${process.env.TMPDIR || '/tmp'} (${code}): allow memfd_create, or set TMPDIR to a writable folder`,
      { cause },
    )
  }
}

/** Returns null for a file that cannot be sealed. */
export function sealsOf(fd: OwnedFd): number | null {
  return native.getSeals(fd.raw)
}

/** Maximum attempts to seal a file while pages of it are in use. */
const ATTEMPTS = 4

/**
 * Throws EPERM for a read-only descriptor, or if SEAL_SEAL is set. Throws EBUSY if a process maps the file writable, or uses pages of it for longer
 * than half a second. The kernel itself waits only 150 ms for pages in use (memfd_wait_for_pins() in mm/memfd.c), so this function tries again.
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
 * Opens the same memory read-only, as a new open file description: a process of another user that gets it can neither write nor seal the memory.
 * Returns a duplicate if the memory belongs to another user (this process has changed its user), because the kernel refuses to open it then.
 */
export function reopenReadOnly(fd: OwnedFd, label: string): OwnedFd {
  return reopen(fd, () => OwnedFd.own(native.reopenReadOnly(fd.raw), label))
}

/** Opens the same memory for writing; `fd` may be read-only. Returns a duplicate if the memory belongs to another user. */
export function reopenWritable(fd: OwnedFd, label: string): OwnedFd {
  return reopen(fd, () => {
    const raw = openSync(`/proc/self/fd/${fd.raw}`, 'r+')
    native.adopt(raw)
    return OwnedFd.own(raw, label)
  })
}

function reopen(fd: OwnedFd, open: () => OwnedFd): OwnedFd {
  try {
    return open()
  } catch (error) {
    const { code } = error as NativeError
    if (code === 'EACCES') return fd.dup()
    if (code !== 'ENOENT') throw error
    throw new FdbError(
      'ERR_FDB_NO_PROC',
      '/proc is not mounted, but fd-broker needs it to open memory read-only for another process: mount it in this mount namespace (mount -t proc proc /proc)',
      { cause: error },
    )
  }
}

const NOTHING = new Int32Array(new SharedArrayBuffer(4))

/** Blocks this thread. Use it only to wait for another process that answers within milliseconds. */
export function sleepSync(ms: number): void {
  Atomics.wait(NOTHING, 0, 0, ms)
}
