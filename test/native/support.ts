import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach } from 'vitest'
import type { NativeError } from '../../src/kernel/index.js'
import { native } from '../../src/kernel/native.js'

/** Descriptors that this process has open now. */
export function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length
}

/** Where a descriptor leads, as /proc says, or null when it is closed. */
export function target(fd: number): string | null {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`)
  } catch {
    return null
  }
}

/** Flags of a descriptor and of its description, as open() takes them. */
export function flagsOf(fd: number): number {
  return Number.parseInt(/flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '', 8)
}

export const CLOEXEC = 0o2000000
export const NONBLOCK = 0o4000

/** The error that `action` throws; fails when it does not. */
export function thrown(action: () => unknown): NativeError {
  try {
    action()
  } catch (error) {
    return error as NativeError
  }
  throw new Error('it did not throw')
}

/** Closes at the end of the test what `keep` was given, if it is still ours. */
export function descriptors(): <T extends number | number[] | readonly number[]>(fds: T) => T {
  const kept: number[] = []
  afterEach(() => {
    for (const fd of kept.splice(0)) {
      try {
        native.close(fd)
      } catch {
        // The test closed it.
      }
    }
  })
  return fds => {
    for (const fd of [fds].flat()) kept.push(fd as number)
    return fds
  }
}

/** A folder of its own for each test. */
export function folders(): () => Promise<string> {
  const made: string[] = []
  afterEach(async () => {
    for (const folder of made.splice(0)) await rm(folder, { recursive: true, force: true })
  })
  return async () => {
    const folder = await mkdtemp(join(tmpdir(), 'fdb-'))
    made.push(folder)
    return folder
  }
}
