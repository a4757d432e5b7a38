import { chmodSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { bindSocket, type PeerCredentials, setSocketOption } from '../kernel/index.js'
import { lineOf } from '../os/process-identity.js'
import { type NotifyMessage, NotifyReceiver } from '../os/service-manager/notify-receiver.js'
import { temporaryFolder } from '../probing/temporary-folder.js'
import { type Hearing, Probe, type ProbeEvents } from './probe.js'

/**
 * The version uses sd_notify(3): READY=1, STATUS=, MAINPID=. Each version has its own socket. A message counts if the kernel names as its sender
 * a process of this user or of root, or one of the version, which may have become another user's. All other messages are dropped.
 */
export class NotifyProbe extends Probe {
  override readonly env: NodeJS.ProcessEnv
  override readonly hearing: Hearing
  #receiver: NotifyReceiver | null = null

  /** Takes ownership of `hearing`, which an earlier image opened for this version. */
  constructor(hearing: Hearing = openHearing()) {
    super()
    this.hearing = hearing
    this.env = { NOTIFY_SOCKET: pathIn(hearing.folder) }
  }

  override begin(pid: number, events: ProbeEvents): void {
    const { socket } = this.hearing
    // An earlier release opened it without.
    setSocketOption(socket, 'passCred', true)
    /** Present and former main processes of the version. */
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

  /** The socket stays open after settle(): MAINPID and STATUS may change while the version serves. */
  override [Symbol.dispose](): void {
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
    // Root's version may become another user before it reports; messages of others are dropped.
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
