import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { FdbError } from '../errors.js'

/** Memory that the smallest server takes until it serves as a next version: 22.5 MiB measured with Node 20, and 30 for the proxy. */
const NODE_BYTES = 22 * 1024 * 1024
const MIB = 1024 * 1024

/** The room below the limit of a control group, in bytes. */
export interface MemoryRoom {
  readonly bytes: number
  readonly limit: number
  readonly group: string
}

interface Files {
  readonly controllers: string
  readonly limit: string
  readonly used: string
  readonly cache: RegExp
}

const V2: Files = {
  controllers: '',
  limit: 'memory.max',
  used: 'memory.current',
  cache: /^(?:inactive_file|active_file|slab_reclaimable) (\d+)$/gm,
}
const V1: Files = {
  controllers: 'memory',
  limit: 'memory.limit_in_bytes',
  used: 'memory.usage_in_bytes',
  cache: /^total_(?:inactive_file|active_file) (\d+)$/gm,
}

/**
 * Throws ERR_FDB_SPAWN if the memory limit of this process's control groups leaves less than any process of Node takes: the kernel would then kill
 * the largest process of the group, which is the version that serves. Does nothing for other programs, and where the kernel can swap.
 * Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst of Linux.
 */
export function checkMemoryRoom(file: string, proc = '/proc', root = '/sys/fs/cgroup'): void {
  if (file !== process.execPath && basename(file) !== 'node') return
  const room = memoryRoom(proc, root)
  if (room === null || room.bytes >= NODE_BYTES) return
  const [left, limit] = [room.bytes, room.limit].map(bytes => Math.floor(bytes / MIB))
  throw new FdbError(
    'ERR_FDB_SPAWN',
    `cannot start the next version: the memory limit of control group ${room.group} (${limit} MiB) leaves ${left} MiB, a server on Node takes at least ${NODE_BYTES / MIB}, and the kernel would kill the process that serves: raise the limit (memory.max, MemoryMax=) so that two versions have room`,
    { retryable: true, details: { ...room, needed: NODE_BYTES } },
  )
}

/** Returns the smallest room in the group of this process and those above it; null if none has a limit, or if the kernel can swap there. */
export function memoryRoom(proc: string, root: string): MemoryRoom | null {
  const groups = text(`${proc}/self/cgroup`)
  const swaps = /^SwapTotal: +0 kB$/m.exec(text(`${proc}/meminfo`)) === null
  let least: MemoryRoom | null = null
  for (const [, controllers, path = '/'] of groups.matchAll(/^\d+:([^:]*):(\/.*)$/gm)) {
    const files = [V1, V2].find(each => controllers!.split(',').includes(each.controllers))
    // A path with `..` leads out of what this namespace has mounted.
    if (files === undefined || path.includes('/..')) continue
    for (let group = path; ; group = join(group, '..')) {
      const room = roomOf(join(root, files.controllers, group), files, swaps)
      if (room !== null && room.bytes < (least?.bytes ?? Number.POSITIVE_INFINITY)) least = { ...room, group }
      if (group === '/') break
    }
  }
  return least
}

/** The page cache of a group is freed before the kernel kills a process. */
function roomOf(folder: string, files: Files, swaps: boolean): Pick<MemoryRoom, 'bytes' | 'limit'> | null {
  const [limit, used] = [files.limit, files.used].map(name => Number(text(join(folder, name)) || Number.NaN))
  if (swaps && text(join(folder, 'memory.swap.max')).trim() !== '0') return null
  // A group without a limit has `max`, or a number near 2^63.
  if (!(limit! < Number.MAX_SAFE_INTEGER) || Number.isNaN(used)) return null
  // Version 1 does not say how much of the kernel's own memory it could free.
  let bytes = limit! - used! + Number(text(join(folder, 'memory.kmem.usage_in_bytes')))
  for (const [, cached] of text(join(folder, 'memory.stat')).matchAll(files.cache)) bytes += Number(cached)
  return { bytes: Math.max(0, bytes), limit: limit! }
}

/** The contents of a file; '' if it cannot be read. */
function text(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
