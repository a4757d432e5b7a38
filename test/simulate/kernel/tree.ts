import { constants } from 'node:fs'
import { basename, dirname } from 'node:path'
import { at } from '../world.js'
import { File, fail, growTo, Inode, UID } from './objects.js'

/** System calls on the tree of files, at the moment at which they take effect. */

const BLOCK_BYTES = 4096
const { O_CREAT, O_EXCL, O_RDWR, O_WRONLY } = constants
const SEAL_SHRINK = 2
const SEAL_GROW = 4
const SEAL_WRITE = 8

const kernel = () => at.p.world.kernel

export interface StatOptions {
  readonly bigint?: boolean
}

export function statsOf(inode: Inode, { bigint = false }: StatOptions = {}) {
  const n = bigint ? BigInt : Number
  const is = (type: Inode['type']) => () => inode.type === type
  const names = [...kernel().names.values()].filter(each => each === inode).length
  return {
    dev: n(7),
    ino: n(inode.ino),
    uid: n(UID),
    gid: n(UID),
    nlink: n(names),
    mode: n(inode.mode),
    size: n(inode.size),
    mtimeMs: n(Math.floor(inode.mtimeMs)),
    isSocket: is('socket'),
    isDirectory: is('dir'),
    isFile: is('file'),
    isSymbolicLink: () => false,
  }
}

/** Returns what a path names; undefined if it names nothing, but its folder exists. */
function found(path: string, syscall: string): Inode | undefined {
  const inode = kernel().names.get(path)
  if (inode !== undefined) return inode
  const folder = kernel().names.get(dirname(path))
  if (folder === undefined) return fail('ENOENT', syscall)
  return folder.type === 'dir' ? undefined : fail('ENOTDIR', syscall)
}

export function lookUp(path: string, syscall: string): Inode {
  return found(path, syscall) ?? fail('ENOENT', syscall)
}

/** Whether the entries of this path's folder are on the disk. */
function isOnDisk(path: string): boolean {
  return kernel().names.get(dirname(path))?.onDisk === true
}

export function openPath(path: string, flags: number, mode: number): File {
  const present = found(path, 'open')
  const writes = (flags & (O_WRONLY | O_RDWR)) !== 0
  if (present !== undefined) {
    if (flags & O_CREAT && flags & O_EXCL) fail('EEXIST', 'open')
    if (present.type === 'dir' && (writes || flags & O_CREAT)) fail('EISDIR', 'open')
    if (present.type === 'socket') fail('ENXIO', 'open')
  } else if (!(flags & O_CREAT)) fail('ENOENT', 'open')
  const inode = present ?? new Inode('file', path, mode)
  if (present === undefined) {
    if (isOnDisk(path)) kernel().disk.create(path, inode)
    inode.mtimeMs = kernel().world.wallClock
    kernel().names.set(path, inode)
  }
  return new File(inode, writes, (flags & O_WRONLY) === 0)
}

export function truncateFile({ inode, writable }: File, size: number): void {
  if (!writable) fail('EINVAL', 'ftruncate')
  if (inode.onDisk) {
    kernel().disk.truncate(inode, size)
    return
  }
  const sealed = size < inode.size ? SEAL_SHRINK : SEAL_GROW
  if (inode.seals & (sealed | SEAL_WRITE)) fail('EPERM', 'ftruncate')
  growTo(inode, size)
  inode.data.fill(0, size)
  inode.size = size
}

export function syncFile({ inode }: File): void {
  if (inode.onDisk) kernel().disk.sync(inode)
}

export function rename(from: string, to: string): void {
  const { names, disk } = kernel()
  const inode = lookUp(from, 'rename')
  // Two names of one file: nothing happens.
  if (found(to, 'rename') === inode) return
  if (isOnDisk(to)) disk.name(to, inode, from)
  names.set(to, inode)
  names.delete(from)
}

export function link(from: string, to: string): void {
  const inode = lookUp(from, 'link')
  if (found(to, 'link') !== undefined) fail('EEXIST', 'link')
  if (isOnDisk(to)) kernel().disk.name(to, inode)
  kernel().names.set(to, inode)
}

export function unlink(path: string): void {
  const inode = lookUp(path, 'unlink')
  if (inode.type === 'dir') fail('EISDIR', 'unlink')
  if (isOnDisk(path)) kernel().disk.unlink(path, inode)
  kernel().names.delete(path)
}

export function makeFolder(path: string, mode: number): void {
  if (found(path, 'mkdir') !== undefined) fail('EEXIST', 'mkdir')
  kernel().names.set(path, new Inode('dir', path, mode))
}

export function entries(path: string): string[] {
  if (lookUp(path, 'scandir').type !== 'dir') fail('ENOTDIR', 'scandir')
  const paths = [...kernel().names.keys()].filter(each => each.startsWith('/') && each !== '/')
  return paths.filter(each => dirname(each) === path).map(each => basename(each))
}

export function room(path: string): { bavail: number; bsize: number } {
  lookUp(path, 'statfs')
  return { bavail: Math.floor(kernel().disk.room / BLOCK_BYTES), bsize: BLOCK_BYTES }
}
