import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { bindSocket, closeAll, type Poll, READABLE, receiveMessage, watch } from '../kernel/index.js'
import { notifyWords } from '../supervised/notify-words.js'
import { type Hearing, NOTHING, type Probe, type ProbeEvents } from './probe.js'

const MOST_BYTES = 65_536
/** Messages read in one turn of the event loop. */
const TURN_MESSAGES = 64

/**
 * What a version says as it would to systemd: READY=1, STATUS=, MAINPID=. Each has a socket of its own, so that it is known who
 * speaks; whoever knows its path may, also a process that has become another user's.
 */
export class NotifyProbe implements Probe {
  readonly listeners = NOTHING.listeners
  readonly fds = NOTHING.fds
  readonly env: NodeJS.ProcessEnv
  readonly hearing: Hearing
  #poll: Poll | null = null

  /** `hearing`: of a version that is heard already; owned from now on. */
  constructor(hearing: Hearing = openHearing()) {
    this.hearing = hearing
    this.env = { NOTIFY_SOCKET: pathIn(hearing.folder) }
  }

  begin(_pid: number, events: ProbeEvents): void {
    const bytes = Buffer.alloc(MOST_BYTES)
    const { socket } = this.hearing
    this.#poll = watch(socket, () => {
      for (let i = 0; i < TURN_MESSAGES && this.#poll !== null; i++) {
        const { bytes: got, fds } = receiveMessage(socket, bytes, 0, bytes.length)
        // BARRIER=1 waits for just this.
        if (fds !== null) closeAll(fds)
        if (got < 0) return
        take(bytes.toString('utf8', 0, got), events)
      }
    })
    this.#poll.start(READABLE)
  }

  /** It goes on telling who it is. */
  settle(): void {}

  [Symbol.dispose](): void {
    this.#poll?.close()
    this.#poll = null
    this.hearing.socket.close()
    rmSync(this.hearing.folder, { recursive: true, force: true })
  }
}

function pathIn(folder: string): string {
  return join(folder, 'notify')
}

function openHearing(): Hearing {
  const folder = mkdtempSync(join(process.env.RUNTIME_DIRECTORY?.split(':')[0] || tmpdir(), 'fd-broker-'))
  try {
    chmodSync(folder, 0o711)
    const wanted = { kind: 'unix', host: pathIn(folder), datagram: true, mode: 0o777 } as const
    return { folder, socket: bindSocket(wanted, 'notify socket') }
  } catch (error) {
    rmSync(folder, { recursive: true, force: true })
    throw error
  }
}

function take(text: string, events: ProbeEvents): void {
  const said = notifyWords(text)
  const main = Number(said.get('MAINPID'))
  if (Number.isInteger(main) && main > 0) events.mainProcess(main)
  const status = said.get('STATUS')
  if (status !== undefined) events.says(status)
  if (said.get('READY') === '1') events.ready()
}
