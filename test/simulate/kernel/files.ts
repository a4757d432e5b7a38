import { constants } from 'node:fs'
import type { SimulatedProcess } from '../process.js'
import { at } from '../world.js'
import { asFile, closeFd, inspected, put, readFrom, writeInto } from './addon.js'
import { statOf, statusOf } from './children.js'
import { File, fail, growTo, Inode } from './objects.js'
import {
  entries,
  link,
  lookUp,
  makeFolder,
  openPath,
  rename,
  type StatOptions,
  statsOf,
  syncFile,
  truncateFile,
  unlink,
} from './tree.js'

const FLAGS: Readonly<Record<string, number>> = {
  r: constants.O_RDONLY,
  'r+': constants.O_RDWR,
  wx: constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL,
}
const kernel = () => at.p.world.kernel

/** The text of a file in `/proc`. */
function procFile(path: string): string {
  const { world } = kernel()
  if (path === '/proc/uptime') return `${(world.now / 1000).toFixed(2)} 0`
  const [, pid, what] = /^\/proc\/(\d+)\/(stat|status|environ|cmdline)$/.exec(path) ?? []
  const p = world.processes.get(Number(pid)) ?? fail('ENOENT', 'open')
  if (what === 'stat') return statOf(p)
  if (what === 'status') return statusOf()
  if (what === 'cmdline') return `node\0${p.script}\0`
  return Object.entries(p.dead ? {} : p.begunWith)
    .map(([name, value]) => `${name}=${value}\0`)
    .join('')
}

function readWhole(path: string): string {
  const memory = kernel().memory.text(path)
  if (memory !== null) return memory
  if (path.startsWith('/proc/')) return procFile(path)
  const { inode } = openPath(path, constants.O_RDONLY, 0)
  return inode.data.toString('utf8', 0, inode.size)
}

/** Writes a whole small file, which is not on the disk. */
function writeWhole(
  path: string,
  text: string,
  { flag, mode = 0o666 }: { flag: string; mode?: number },
): void {
  const { inode } = openPath(path, FLAGS[flag]!, mode)
  const bytes = Buffer.from(text)
  growTo(inode, bytes.length)
  inode.data.set(bytes)
}

function lstatSync(path: string, options: StatOptions & { throwIfNoEntry?: boolean } = {}) {
  const inode = kernel().names.get(path) ?? folderOf(path)
  if (inode !== undefined) return statsOf(inode, options)
  return options.throwIfNoEntry === false ? undefined : statsOf(lookUp(path, 'lstat'), options)
}

/** The folder of a process in `/proc`. */
function folderOf(path: string): Inode | undefined {
  const [, pid] = /^\/proc\/(\d+)$/.exec(path) ?? []
  const isThere = kernel().world.processes.has(Number(pid))
  return isThere ? new Inode('dir', path, 0o555) : undefined
}

function asInode(fd: number, syscall: string): Inode {
  return at.p.fds.get(fd)?.inode ?? fail('EBADF', syscall)
}

/** A disk that is slow holds up a process that does not ask another thread. */
function blocking<Args extends unknown[], Result>(
  isOnDisk: (first: Args[0]) => boolean,
  call: (...args: Args) => Result,
): (...args: Args) => Result {
  return (...args) => {
    const { disk } = kernel()
    if (disk.isSlow && isOnDisk(args[0])) {
      const { begin, end } = disk.delays(true)
      at.p.world.stop(at.p, begin + end)
    }
    return call(...args)
  }
}

function pids(): string[] {
  const seen = [...kernel().world.processes.values()].filter(({ dead, isZombie }) => !dead || isZombie)
  return seen.map(({ pid }) => String(pid))
}

const FOLDER = /^\/proc\/\d+\/cwd$/
const DESCRIPTORS = /^\/proc\/(\d+)\/fd(?:\/(\d+))?$/

/** The descriptors of a process. */
function descriptorsOf(pid: string | undefined, syscall: string): SimulatedProcess['fds'] {
  const p = kernel().world.processes.get(Number(pid)) ?? fail('ENOENT', syscall)
  return p.dead ? fail(p.isZombie ? 'EACCES' : 'ENOENT', syscall) : p.fds
}

function entriesOf(path: string): string[] {
  if (path === '/proc') return pids()
  const [isOfProcess, pid] = DESCRIPTORS.exec(path) ?? []
  return isOfProcess ? [...descriptorsOf(pid, 'scandir').keys()].map(String) : entries(path)
}

function targetOf(path: string): string {
  if (FOLDER.test(path)) return '/'
  const [, pid, fd] = DESCRIPTORS.exec(path) ?? fail('ENOENT', 'readlink')
  const open = descriptorsOf(pid, 'readlink').get(Number(fd)) ?? fail('ENOENT', 'readlink')
  if (open.kind === 'listener' || open.kind === 'stream') return `socket:[${inspected(open).ino}]`
  if (open.kind !== 'file') return `/${open.kind}`
  const { name, sealable } = (open as File).inode
  return sealable ? `/memfd:${name} (deleted)` : name
}

const ofFd = (fd: number) => at.p.fds.get(fd)?.inode?.onDisk === true
const ofPath = (path: string) => kernel().names.get(path)?.onDisk === true

/** The functions of `node:fs` that the drivers call, for the process that runs now. */
export const simulatedFiles = {
  lstatSync,
  statSync: lstatSync,
  existsSync: (path: string) => kernel().names.has(path),
  realpathSync: (path: string) => (kernel().names.has(path) ? path : fail('ENOENT', 'realpath')),
  readdirSync: entriesOf,
  access(path: string, done: (error: unknown) => void) {
    let failure: unknown = null
    try {
      lookUp(path, 'access')
    } catch (error) {
      failure = error
    }
    at.p.setImmediate(() => done(failure))
  },
  accessSync: (path: string) => void lookUp(path, 'access'),
  readlinkSync: targetOf,
  mkdirSync: (path: string, { mode = 0o777 }: { mode?: number } = {}) => makeFolder(path, mode),
  linkSync: link,
  unlinkSync: blocking(ofPath, unlink),
  renameSync: blocking(ofPath, rename),
  chmodSync(path: string, mode: number) {
    lookUp(path, 'chmod').mode = mode
  },
  readFileSync: readWhole,
  writeFileSync: writeWhole,
  truncateSync(path: string) {
    lookUp(path, 'open').size = 0
  },
  openSync(path: string, flags: string | number = 'r', mode = 0o666) {
    const bits = typeof flags === 'number' ? flags : FLAGS[flags]!
    const fd = Number(/^\/proc\/self\/fd\/(\d+)$/.exec(path)?.[1])
    const own = at.p.fds.get(fd)?.inode ?? null
    if (own === null) return put(openPath(path, bits, mode))
    return put(new File(own, (bits & (constants.O_WRONLY | constants.O_RDWR)) !== 0))
  },
  fstatSync: (fd: number, options: StatOptions = {}) => statsOf(asInode(fd, 'fstat'), options),
  readSync: (fd: number, into: Uint8Array, offset: number, length: number, position: number) =>
    readFrom(asFile(fd, 'read', 'ESPIPE'), into.subarray(offset, offset + length), position),
  writeSync: blocking(
    ofFd,
    (fd: number, from: Uint8Array, offset: number, length: number, position: number) =>
      writeInto(asFile(fd, 'write', 'ESPIPE'), from.subarray(offset, offset + length), position),
  ),
  fsyncSync: blocking(ofFd, (fd: number) => syncFile(asFile(fd, 'fsync', 'EINVAL'))),
  fdatasyncSync: blocking(ofFd, (fd: number) => syncFile(asFile(fd, 'fdatasync', 'EINVAL'))),
  rmSync: blocking(ofPath, (path: string, { force = false }: { force?: boolean } = {}) => {
    if (!force || kernel().names.has(path)) unlink(path)
  }),
  constants,
  ftruncateSync: blocking(ofFd, (fd: number, size: number) =>
    truncateFile(asFile(fd, 'ftruncate', 'EINVAL'), size),
  ),
  closeSync: closeFd,
  close(fd: number, done: () => void) {
    closeFd(fd)
    at.p.setImmediate(done)
  },
}
