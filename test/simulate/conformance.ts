import type { Native } from '../../src/kernel/native.js'
import { randomOf } from './random.js'

/** The values of a result: descriptors are shown by the order in which they were opened, as numbers differ. */
type Shape = 'fd' | 'fd or -1' | 'fds' | 'received' | 'value'

const CALLS = 60

/** Makes random calls to an addon, the same for each addon, and returns them with their results. `folder` is for paths, and is not shown. */
export function randomCalls(seed: number, addon: Native, folder: string): string[] {
  const random = randomOf(seed)
  const below = (n: number) => Math.floor(random() * n)
  const fds: number[] = []
  /** Positions of files in `fds`. A socket in flight may refer to itself: the kernel frees such ones later, at any time. */
  const files = new Set<number>()
  const lines: string[] = []
  const opened = (fd: number) => `fd ${fds.push(fd) - 1}`

  function shown(result: unknown, shape: Shape): unknown {
    if (shape === 'fd' || (shape === 'fd or -1' && (result as number) >= 0)) return opened(result as number)
    if (shape === 'fds') return (result as number[]).map(opened)
    if (shape !== 'received') return result ?? null
    const received = result as ReturnType<Native['receiveMessage']>
    return { bytes: received.bytes, fds: received.fds?.map(opened) ?? null }
  }

  function call(text: string, shape: Shape, act: () => unknown): void {
    let result: unknown
    try {
      result = shown(act(), shape)
    } catch (error) {
      result = (error as NodeJS.ErrnoException).code
    }
    lines.push(`${text} = ${JSON.stringify(result)}`)
  }

  call('socketPair()', 'fds', () => addon.socketPair())
  for (let i = 0; i < CALLS; i++) {
    const [a, b, n, m] = [below(fds.length), below(fds.length), 1 + below(300), below(200)]
    const [fd, other] = [fds[a]!, fds[b]!]
    const bytes = Buffer.alloc(300, i)
    const path = `${folder}/s${m % 2}`
    const seals = [2, 4, 8, 14][m % 4]!
    switch (below(16)) {
      case 0:
      case 1:
      case 2: {
        const sent = m < 80 && files.has(b) ? [other] : null
        call(`sendMessage(${a}, ${n}, ${sent && b})`, 'value', () => addon.sendMessage(fd, bytes, 0, n, sent))
        break
      }
      case 3:
      case 4:
      case 5:
        call(`receiveMessage(${a}, ${n})`, 'received', () => addon.receiveMessage(fd, bytes, 0, n))
        break
      case 6:
        call(`close(${a})`, 'value', () => addon.close(fd))
        break
      case 7:
        call(`dup(${a})`, 'fd', () => addon.dup(fd))
        break
      case 8:
        call('memfd()', 'fd', () => addon.memfd('x'))
        files.add(fds.length - 1)
        break
      case 9:
        call(`pwrite(${a}, ${n} at ${m})`, 'value', () => addon.pwrite(fd, bytes, 0, n, m))
        break
      case 10:
        call(`pread(${a}, ${n} at ${m})`, 'value', () => {
          const read = addon.pread(fd, bytes, 0, n, m)
          return `${read} ${bytes.toString('hex')}`
        })
        break
      case 11:
        call(`addSeals(${a}, ${seals})`, 'value', () => addon.addSeals(fd, seals))
        break
      case 12:
        // The kernel may add SEAL_EXEC.
        call(`getSeals(${a})`, 'value', () => (addon.getSeals(fd) ?? 0) & ~32)
        break
      case 13:
        call(`reopenReadOnly(${a})`, 'fd', () => addon.reopenReadOnly(fd))
        break
      case 14:
        if (m < 100) call(`shutDown(${a})`, 'value', () => addon.shutDown(fd))
        else call(`tryLock(${a})`, 'value', () => addon.tryLock(fd))
        break
      default:
        if (m < 50) {
          const address = { kind: 'unix', host: path, backlog: 3 } as const
          call(`bindSocket(s${m % 2})`, 'fd', () => addon.bindSocket(address))
        } else if (m < 100) call(`connectUnix(s${m % 2})`, 'fd', () => addon.connectUnix(path, false))
        else if (m < 150) call(`accept(${a})`, 'fd or -1', () => addon.accept(fd))
        else call(`openLockFile(l${m % 2})`, 'fd', () => addon.openLockFile(`${path}.lock`, 0o600))
    }
  }
  closeAll(addon, fds)
  return lines
}

function closeAll(addon: Native, fds: readonly number[]): void {
  for (const fd of fds)
    try {
      addon.close(fd)
    } catch {
      // The calls have closed it.
    }
}
