import { constants } from 'node:fs'
import { at } from '../world.js'
import { closeFd, put, writeInto } from './addon.js'
import { File, fail, Inode } from './objects.js'

const UID = 1000
const FLAGS: Readonly<Record<string, number>> = {
  r: constants.O_RDONLY,
  'r+': constants.O_RDWR,
  wx: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL,
}
const kernel = () => at.p.world.kernel

interface StatOptions {
  readonly bigint?: boolean
  readonly throwIfNoEntry?: boolean
}

function statsOf(inode: Inode, bigint = false) {
  const n = bigint ? BigInt : Number
  const is = (type: Inode['type']) => () => inode.type === type
  return {
    dev: n(7),
    ino: n(inode.ino),
    uid: n(UID),
    gid: n(UID),
    nlink: n(1),
    mode: n(inode.mode),
    size: n(inode.size),
    isSocket: is('socket'),
    isDirectory: is('dir'),
    isFile: is('file'),
    isSymbolicLink: () => false,
  }
}

function processIn(path: string) {
  const pid = Number(/^\/proc\/(\d+)\/stat$/.exec(path)?.[1])
  return kernel().world.processes.get(pid) ?? fail('ENOENT', 'open')
}

function lstatSync(path: string, { bigint, throwIfNoEntry = true }: StatOptions = {}) {
  const inode = kernel().names.get(path)
  if (inode !== undefined) return statsOf(inode, bigint)
  return throwIfNoEntry ? fail('ENOENT', 'lstat') : undefined
}

/** The functions of `node:fs` that the drivers call, for the process that runs now. */
export const simulatedFiles = {
  lstatSync,
  statSync: lstatSync,
  existsSync: (path: string) => kernel().names.has(path),
  realpathSync: (path: string) => (kernel().names.has(path) ? path : fail('ENOENT', 'realpath')),
  readdirSync: () => fail('ENOENT', 'readdir'),
  readlinkSync: () => fail('ENOENT', 'readlink'),
  mkdirSync(path: string, { mode = 0o777 }: { mode?: number } = {}) {
    if (kernel().names.has(path)) fail('EEXIST', 'mkdir')
    kernel().names.set(path, new Inode('dir', path, mode))
  },
  linkSync(from: string, to: string) {
    const inode = kernel().names.get(from) ?? fail('ENOENT', 'link')
    if (kernel().names.has(to)) fail('EEXIST', 'link')
    kernel().names.set(to, inode)
  },
  unlinkSync(path: string) {
    if (!kernel().names.delete(path)) fail('ENOENT', 'unlink')
  },
  renameSync(from: string, to: string) {
    kernel().names.set(to, kernel().names.get(from) ?? fail('ENOENT', 'rename'))
    kernel().names.delete(from)
  },
  chmodSync(path: string, mode: number) {
    const inode = kernel().names.get(path) ?? fail('ENOENT', 'chmod')
    inode.mode = mode
  },
  readFileSync(path: string) {
    const { pid, dead } = processIn(path)
    return `${pid} (node) ${dead ? 'Z' : 'S'} 1 ${pid} ${pid} 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 ${pid * 100} 0`
  },
  openSync(path: string, flags: string | number = 'r', mode = 0o666) {
    const fd = Number(/^\/proc\/self\/fd\/(\d+)$/.exec(path)?.[1])
    const present = at.p.fds.get(fd)?.inode ?? kernel().names.get(path)
    const bits = typeof flags === 'number' ? flags : FLAGS[flags]!
    if (present !== undefined && bits & constants.O_EXCL) fail('EEXIST', 'open')
    if (present === undefined && !(bits & constants.O_CREAT)) fail('ENOENT', 'open')
    const inode = present ?? new Inode('file', path, mode)
    if (present === undefined) kernel().names.set(path, inode)
    return put(new File(inode, (bits & (constants.O_WRONLY | constants.O_RDWR)) !== 0))
  },
  fstatSync(fd: number, { bigint }: StatOptions = {}) {
    return statsOf(at.p.fds.get(fd)?.inode ?? fail('EBADF', 'fstat'), bigint)
  },
  fsyncSync() {},
  fdatasyncSync() {},
  rmSync(path: string, { force = false }: { force?: boolean } = {}) {
    if (!kernel().names.delete(path) && !force) fail('ENOENT', 'rm')
  },
  constants,
  ftruncateSync(fd: number, size: number) {
    const inode = at.p.fds.get(fd)?.inode ?? fail('EBADF', 'ftruncate')
    const sealed = size < inode.size ? 2 : 4
    if (inode.seals & (sealed | 8)) fail('EPERM', 'ftruncate')
    if (size > inode.size) writeInto(inode, new Uint8Array(size - inode.size), inode.size)
    inode.data.fill(0, size)
    inode.size = size
  },
  closeSync: closeFd,
  close(fd: number, done: () => void) {
    closeFd(fd)
    at.p.setImmediate(done)
  },
}
