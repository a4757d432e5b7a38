import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import {
  bindSocket,
  closeAll,
  inspectOne,
  type OwnedFd,
  READABLE,
  receiveMessage,
  watch,
} from '../../src/kernel/index.js'
import { until } from './until.js'

/** One datagram: its assignments. */
export type Note = Readonly<Record<string, string>>

/** A socket as systemd's: records what a service says of itself. */
export class NotifyRecorder {
  /** The environment that a service manager gives. */
  readonly env: { readonly NOTIFY_SOCKET: string }
  readonly notes: Note[] = []
  /** Descriptors that it keeps, by name: the same object once. */
  readonly kept = new Map<string, OwnedFd[]>()

  /** In `folder`; or under an abstract name, when it begins with `@`. */
  static open(where: string): NotifyRecorder {
    const abstract = where.startsWith('@')
    return new NotifyRecorder(abstract ? where : join(where, 'notify'), abstract)
  }

  private constructor(name: string, abstract: boolean) {
    this.env = { NOTIFY_SOCKET: name }
    const host = abstract ? name.slice(1) : name
    const socket = bindSocket({ kind: 'unix', host, abstract, datagram: true }, 'notify socket')
    const room = Buffer.alloc(65_536)
    const poll = watch(socket, () => {
      for (;;) {
        const { bytes, fds } = receiveMessage(socket, room)
        if (bytes <= 0) return
        const lines = room.toString('utf8', 0, bytes).split('\n')
        const note: Note = Object.fromEntries(lines.map(line => line.split(/=(.*)/s, 2) as [string, string]))
        this.notes.push(note)
        this.#keep(note, fds ?? [])
      }
    })
    poll.start(READABLE)
    onTestFinished(() => {
      poll.close()
      socket.close()
      this.forget(() => true)
    })
  }

  /** Lets go of those with such names. */
  forget(which: (name: string) => boolean): void {
    for (const name of [...this.kept.keys()].filter(which)) {
      closeAll(this.kept.get(name) ?? [])
      this.kept.delete(name)
    }
  }

  #keep({ FDNAME: name = '', FDSTORE, FDSTOREREMOVE }: Note, fds: readonly OwnedFd[]): void {
    if (FDSTOREREMOVE) this.forget(each => each === name)
    const there = this.kept.get(name) ?? []
    const known = new Set(there.map(fd => inspectOne(fd).ino))
    for (const fd of fds) {
      if (FDSTORE && !known.has(inspectOne(fd).ino)) this.kept.set(name, [...there, fd])
      else fd.close()
    }
  }

  /** The service's messages, in order: `READY`, `RELOADING`, `MAINPID=7`, `STOPPING`. Messages of one datagram are joined by `+`. */
  get story(): string[] {
    return this.notes.map(storyOf).filter(word => word !== '')
  }

  /** The last `STATUS=`. */
  get status(): string {
    return this.notes.findLast(({ STATUS }) => STATUS !== undefined)?.STATUS ?? ''
  }

  count(name: string): number {
    return this.notes.filter(note => name in note).length
  }

  /** Waits until this was told, in this order and nothing else. */
  async tells(...story: string[]): Promise<void> {
    await until(
      `the manager was told ${story.join(', ')}`,
      () => this.story.join() === story.join(),
      15_000,
      () => this.notes,
    )
  }

  async says(status: RegExp): Promise<void> {
    await until(
      `the status is ${status}`,
      () => status.test(this.status),
      15_000,
      () => this.notes,
    )
  }
}

function storyOf(note: Note): string {
  const words: string[] = []
  if ('MAINPID' in note) words.push(`MAINPID=${note.MAINPID}`)
  for (const word of ['READY', 'RELOADING', 'STOPPING'] as const) if (note[word] === '1') words.push(word)
  return words.join('+')
}
