import { constants } from 'node:fs'
import { join } from 'node:path'
import type { Native } from '../../src/kernel/native.js'
import { randomOf } from './random.js'

const CALLS = 60
const NAMES = ['a', 'b', 'c', 'missing/d']
const { O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_WRONLY } = constants
const FLAGS = [O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_CREAT, O_RDWR | O_CREAT, O_WRONLY | O_CREAT | O_EXCL]

interface About {
  readonly size: number | bigint
  readonly nlink: number | bigint
  isFile(): boolean
  isDirectory(): boolean
}

interface OpenedFile {
  read(into: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesRead: number }>
  write(from: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesWritten: number }>
  stat(): Promise<About>
  truncate(size: number): Promise<void>
  datasync(): Promise<void>
  close(): Promise<void>
}

/** The functions of Node and of the addon that the calls are made to, or those of the simulation. */
export interface FileCalls {
  readonly files: {
    openSync(path: string, flags: number, mode: number): number
    closeSync(fd: number): void
    writeSync(fd: number, from: Uint8Array, offset: number, length: number, position: number): number
    ftruncateSync(fd: number, size: number): void
    fsyncSync(fd: number): void
    fdatasyncSync(fd: number): void
    fstatSync(fd: number): About
    lstatSync(path: string, options: { throwIfNoEntry: boolean }): About | undefined
    renameSync(from: string, to: string): void
    linkSync(from: string, to: string): void
    unlinkSync(path: string): void
    rmSync(path: string, options: { force: boolean }): void
    readdirSync(path: string): string[]
  }
  readonly promises: {
    open(path: string, flags: number, mode: number): Promise<OpenedFile>
    lstat(path: string): Promise<About>
    rename(from: string, to: string): Promise<void>
    link(from: string, to: string): Promise<void>
    unlink(path: string): Promise<void>
    readdir(path: string): Promise<string[]>
  }
  readonly addon: Pick<Native, 'pread' | 'pwrite' | 'tryLock'>
}

/** Makes random calls on the files of a folder, one after the other, the same for each implementation, and returns them with their results. */
export async function randomFileCalls(
  seed: number,
  { files, promises, addon }: FileCalls,
  folder: string,
): Promise<string[]> {
  const random = randomOf(seed)
  const below = (n: number) => Math.floor(random() * n)
  const path = () => join(folder, NAMES[below(NAMES.length)]!)
  const fds: number[] = []
  const handles: OpenedFile[] = []
  const lines: string[] = []
  const into = Buffer.alloc(2_000)

  async function call(text: string, act: () => unknown): Promise<void> {
    let result: unknown
    try {
      result = await act()
    } catch (error) {
      result = (error as NodeJS.ErrnoException).code
    }
    lines.push(`${text} = ${JSON.stringify(result ?? null)}`)
  }

  /** Sizes of folders, and the links in them, differ by file system. */
  const about = (stats: About | undefined) =>
    stats?.isFile() ? [Number(stats.size), Number(stats.nlink)] : stats?.isDirectory()
  const text = (count: number) => into.toString('hex', 0, count)
  const named = (each: string) => each.slice(folder.length)

  for (let i = 0; i < CALLS; i++) {
    const [a, n, at, more] = [below(fds.length), 1 + below(1_500), below(3_000), below(FLAGS.length)]
    const [one, other, whole] = [path(), path(), below(8) === 0 ? folder : path()]
    const fd = fds.length > 0 ? fds[a]! : 1_000_000
    const handle = handles[below(handles.length)]
    const bytes = Buffer.alloc(n, i + 1)
    const flags = FLAGS[more]!
    switch (below(22)) {
      case 0:
      case 1:
      case 2:
        await call(`openSync(${named(whole)}, ${more})`, () => {
          fds.push(files.openSync(whole, flags, 0o600))
        })
        break
      case 3:
      case 4:
        await call(`writeSync(${a}, ${n} at ${at})`, () => files.writeSync(fd, bytes, 0, n, at))
        break
      case 5:
        await call(`pwrite(${a}, ${n} at ${at})`, () => addon.pwrite(fd, bytes, 0, n, at))
        break
      case 6:
        await call(`pread(${a}, ${n} at ${at})`, () => text(addon.pread(fd, into, 0, n, at)))
        break
      case 7:
        await call(`ftruncateSync(${a}, ${at})`, () => files.ftruncateSync(fd, at))
        break
      case 8:
        await call(`fstatSync(${a})`, () => about(files.fstatSync(fd)))
        break
      case 9:
        await call(`lstatSync(${named(whole)})`, () =>
          about(files.lstatSync(whole, { throwIfNoEntry: n % 2 === 0 })),
        )
        break
      case 10:
        await call(`renameSync(${named(one)}, ${named(other)})`, () => files.renameSync(one, other))
        break
      case 11:
        await call(`linkSync(${named(one)}, ${named(other)})`, () => files.linkSync(one, other))
        break
      case 12:
        await call(`unlinkSync(${named(whole)})`, () => files.unlinkSync(whole))
        break
      case 13:
        await call(`rmSync(${named(one)})`, () => files.rmSync(one, { force: n % 2 === 0 }))
        break
      case 14:
        await call(`readdirSync(${named(whole)})`, () => files.readdirSync(whole).toSorted())
        break
      case 15:
        await call(`tryLock(${a})`, () => addon.tryLock(fd))
        break
      case 16:
        if (fds.length === 0) break
        fds.splice(a, 1)
        await call(`closeSync(${a})`, () => files.closeSync(fd))
        break
      case 17:
        await call(`f${n % 2 === 0 ? '' : 'data'}syncSync(${a})`, () =>
          n % 2 === 0 ? files.fsyncSync(fd) : files.fdatasyncSync(fd),
        )
        break
      case 18:
        await call(`open(${named(whole)}, ${more})`, async () => {
          handles.push(await promises.open(whole, flags, 0o600))
        })
        break
      case 19:
        await ofHandle(handle, n, at, bytes)
        break
      case 20:
        await call(`lstat(${named(whole)})`, async () => about(await promises.lstat(whole)))
        break
      default:
        if (n % 4 === 0)
          await call(`rename(${named(one)}, ${named(other)})`, () => promises.rename(one, other))
        else if (n % 4 === 1)
          await call(`link(${named(one)}, ${named(other)})`, () => promises.link(one, other))
        else if (n % 4 === 2) await call(`unlink(${named(whole)})`, () => promises.unlink(whole))
        else await call(`readdir(${named(whole)})`, async () => (await promises.readdir(whole)).toSorted())
    }
  }
  for (const fd of fds) files.closeSync(fd)
  for (const handle of handles) await handle.close()
  return lines

  async function ofHandle(handle: OpenedFile | undefined, n: number, at: number, bytes: Buffer) {
    if (handle === undefined) return
    const h = handles.indexOf(handle)
    switch (n % 8) {
      case 0:
        return call(`${h}.truncate(${at})`, () => handle.truncate(at))
      case 1:
        return call(`${h}.stat()`, async () => about(await handle.stat()))
      case 2:
        return call(`${h}.datasync()`, () => handle.datasync())
      case 3:
        return call(`${h}.close()`, () => handle.close())
      case 4:
      case 5:
        return call(`${h}.read(${n} at ${at})`, async () =>
          text((await handle.read(into, 0, n, at)).bytesRead),
        )
      default:
        return call(
          `${h}.write(${n} at ${at})`,
          async () => (await handle.write(bytes, 0, n, at)).bytesWritten,
        )
    }
  }
}
