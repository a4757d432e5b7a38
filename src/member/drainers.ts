import { closeAll } from '../fd/owned.js'
import type { Guest } from '../holder/admission.js'
import type { DrainReport } from './draining.js'

/** The older generations that report to this process. */
export class Drainers {
  readonly #guests = new Map<Guest, DrainReport>()

  get reports(): DrainReport[] {
    return [...this.#guests.values()].sort((a, b) => a.generation - b.generation)
  }

  add(guest: Guest): void {
    guest.pidfd?.close()
    const { link } = guest
    this.#guests.set(guest, {
      pid: guest.pid,
      generation: guest.hello.generation ?? 0,
      phase: 'unknown',
      connections: 0,
    })
    link.channel.unref()
    link.start({
      message: (envelope, fds) => {
        closeAll(fds)
        if (envelope.heartbeat?.report) this.#note(guest, envelope.heartbeat.report)
      },
      bundle: items => closeAll(items.map(item => item.fd)),
      broken: () => this.#drop(guest),
      end: () => this.#drop(guest),
    })
  }

  /** They connect again, to whoever serves then. */
  close(): void {
    for (const guest of [...this.#guests.keys()]) this.#drop(guest)
  }

  #note(guest: Guest, text: string): void {
    try {
      const { generation, phase, connections } = JSON.parse(text) as DrainReport
      if (typeof connections !== 'number' || typeof phase !== 'string') return
      this.#guests.set(guest, { pid: guest.pid, generation: Number(generation), phase, connections })
    } catch {
      // Not a report: the last one stands.
    }
  }

  #drop(guest: Guest): void {
    guest.link.close()
    this.#guests.delete(guest)
  }
}
