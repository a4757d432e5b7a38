import { chmodSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { bindSocket, type PeerCredentials, setSocketOption } from '../kernel/index.js'
import { temporaryFolder } from '../probing/temporary-folder.js'
import { lineOf } from '../process/line-of.js'
import { type NotifyMessage, NotifyReceiver } from '../supervised/notify-receiver.js'
import { type Hearing, NOTHING, type Probe, type ProbeEvents } from './probe.js'

/**
 * What a version says as it would to systemd: READY=1, STATUS=, MAINPID=. Each version has a socket of its own. A datagram counts when the kernel says that its sender is
 * of this process's user or root, or a process of the version: one that has become another user's, say. All others' are dropped.
 */
export class NotifyProbe implements Probe {
  readonly listeners = NOTHING.listeners
  readonly fds = NOTHING.fds
  readonly env: NodeJS.ProcessEnv
  readonly hearing: Hearing
  #receiver: NotifyReceiver | null = null

  /** `hearing`: of a version that is heard already; owned from now on. */
  constructor(hearing: Hearing = openHearing()) {
    this.hearing = hearing
    this.env = { NOTIFY_SOCKET: pathIn(hearing.folder) }
  }

  begin(pid: number, events: ProbeEvents): void {
    const { socket } = this.hearing
    // One that an earlier release has made.
    setSocketOption(socket, 'passCred', true)
    /** The processes of which one is the version's, or was. */
    const roots = new Set([pid])
    const heard = {
      ...events,
      mainProcess: (main: number) => {
        roots.add(main)
        events.mainProcess(main)
      },
    }
    this.#receiver = new NotifyReceiver(socket, {
      received: message => {
        if (mayTell(message.from, roots)) take(message, heard)
      },
    })
  }

  /** It goes on telling who it is. */
  settle(): void {}

  [Symbol.dispose](): void {
    this.#receiver?.close()
    this.#receiver = null
    this.hearing.socket.close()
    rmSync(this.hearing.folder, { recursive: true, force: true })
  }
}

function pathIn(folder: string): string {
  return join(folder, 'notify')
}

function openHearing(): Hearing {
  const folder = temporaryFolder()
  try {
    // Root's version may become another user before it tells; what others say is dropped.
    const shared = process.geteuid?.() === 0
    chmodSync(folder, shared ? 0o711 : 0o700)
    const wanted = {
      kind: 'unix',
      host: pathIn(folder),
      datagram: true,
      mode: shared ? 0o666 : 0o600,
    } as const
    const socket = bindSocket(wanted, 'notify socket')
    setSocketOption(socket, 'passCred', true)
    return { folder, socket }
  } catch (error) {
    rmSync(folder, { recursive: true, force: true })
    throw error
  }
}

function mayTell({ pid, uid }: PeerCredentials, roots: ReadonlySet<number>): boolean {
  const own = process.geteuid?.() ?? uid
  if (uid === own || uid === 0) return true
  for (const each of lineOf(pid)) if (roots.has(each)) return true
  return false
}

function take({ words }: NotifyMessage, events: ProbeEvents): void {
  const main = Number(words.get('MAINPID'))
  if (Number.isInteger(main) && main > 0) events.mainProcess(main)
  const status = words.get('STATUS')
  if (status !== undefined) events.says(status)
  if (words.get('READY') === '1') events.ready()
}
