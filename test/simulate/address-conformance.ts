import type { Native } from '../../src/kernel/native.js'
import { randomOf } from './random.js'

const CALLS = 40
const PORT = 7_000
/** More than connections are made: how a full queue looks to clients is not simulated. */
const BACKLOG = 100

/** The calls of the addon, and those of a client. */
export interface AddressCalls {
  readonly addon: Native
  /** Resolves with the descriptor of a connection; throws ECONNREFUSED. */
  connect(host: string, port: number): Promise<number>
  /** Resolves with 0, 1 or 2: see `hangups` of the addon. `line`: the number of this result. */
  hangup(fd: number, line: number): Promise<number>
}

interface Socket {
  readonly fd: number
  listens: boolean
}

/**
 * Makes random calls on sockets that share an address, the same for each implementation, and returns them with their results. The kernel chooses which
 * of several listeners gets a connection: so a listener is closed only if the test knows the clients in its queue.
 */
export async function randomAddressCalls(
  seed: number,
  { addon, connect, hangup }: AddressCalls,
  host: string,
): Promise<string[]> {
  const random = randomOf(seed)
  const below = (n: number) => Math.floor(random() * n)
  const lines: string[] = []
  const sockets: Socket[] = []
  const clients: number[] = []
  const accepted: number[] = []
  /** Connections wait, and more than one listener may have them. */
  let isOpen = false
  // An accepted connection without SO_REUSEADDR keeps others from the address: such sockets get none.
  const connects = below(4) > 0

  async function call<T>(text: string, act: () => T | Promise<T>): Promise<T | undefined> {
    try {
      const result = await act()
      lines.push(`${text} = ${typeof result === 'number' && result < 0 ? 'none' : 'done'}`)
      return result
    } catch (error) {
      lines.push(`${text} = ${(error as NodeJS.ErrnoException).code}`)
      return undefined
    }
  }

  const listening = () => sockets.filter(({ listens }) => listens)

  function acceptAll(): void {
    let count = 0
    for (const { fd } of listening())
      for (let got = addon.accept(fd); got >= 0; got = addon.accept(fd)) {
        accepted.push(got)
        count++
      }
    isOpen = false
    lines.push(`all accept ${count}`)
  }

  async function closeOne(): Promise<void> {
    if (sockets.length === 0) return
    if (isOpen) acceptAll()
    const at = below(sockets.length)
    const [socket] = sockets.splice(at, 1)
    await call(`close(${at})`, () => addon.close(socket!.fd))
    for (const fd of clients) lines.push(`a connection is ${await hangup(fd, lines.length)}`)
  }

  for (let i = 0; i < CALLS; i++) {
    const at = below(Math.max(1, sockets.length))
    const socket = sockets[at]
    const reusePort = below(3) > 0
    // With SO_REUSEPORT alone the kernel looks only at the socket that was bound last.
    const reuseAddr = connects || reusePort || below(2) === 0
    switch (below(10)) {
      case 0:
      case 1:
      case 2: {
        const listens = below(2) === 0
        const options = { kind: 'tcp', host, port: PORT, reuseAddr, reusePort } as const
        const fd = await call(`bind(${reuseAddr}, ${reusePort}, ${listens})`, () =>
          addon.bindSocket(listens ? { ...options, backlog: BACKLOG } : options),
        )
        if (fd !== undefined) sockets.push({ fd, listens })
        break
      }
      case 3:
        // Among several sockets the kernel keeps what the group had.
        if (sockets.length === 1 && socket !== undefined)
          await call(`setOption(${at})`, () => addon.setOption(socket.fd, 'reusePort', true))
        break
      case 4:
        if (socket === undefined || socket.listens) break
        await call(`listen(${at})`, () => {
          addon.listen(socket.fd, BACKLOG)
          socket.listens = true
        })
        break
      case 5:
      case 6:
      case 7: {
        if (!connects) break
        const fd = await call('connect()', () => connect(host, PORT))
        if (fd === undefined) break
        clients.push(fd)
        if (listening().length > 1) isOpen = true
        break
      }
      case 8:
        if (socket !== undefined) lines.push(`${at} is ${about(addon, socket)}`)
        if (below(2) === 0) acceptAll()
        break
      default:
        await closeOne()
    }
  }
  for (const { fd } of sockets) addon.close(fd)
  for (const fd of [...clients, ...accepted]) addon.close(fd)
  return lines
}

function about(addon: Native, { fd }: Socket): string {
  const { accepting, reusePort, reuseAddr } = addon.inspect([fd])[0]!
  return JSON.stringify({ accepting, reusePort, reuseAddr })
}
