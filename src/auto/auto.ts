import { errorMonitor } from 'node:events'
import { existsSync } from 'node:fs'
import type net from 'node:net'
import { noMember } from '../member/process-member.js'
import type { ListenRequest } from './listen-request.js'
import { loadService } from './load-service.js'
import type { AutoService } from './service.js'
import type { AutoSettings } from './settings.js'
import { messageOf, sayOnce } from './stderr.js'
import { WaitingServer } from './waiting-server.js'

/**
 * Makes the servers of a program listeners of a service. Loads the library only when needed: at the start of a next version, else when the
 * first server listens, while it already answers.
 */
export class Auto {
  readonly #settings: AutoSettings
  readonly #stopWatching = new WeakMap<net.Server, () => void>()
  #service: AutoService | null = null
  #joining: Promise<void> | null = null
  #excluded = false
  #isReady = false
  /** Settles when it is known whether this process is a next version; null once it is. */
  undecided: Promise<unknown> | null = null

  constructor(settings: AutoSettings) {
    this.#settings = settings
  }

  /** Resolves when it is known whether another version serves; its sockets are here then. Never rejects. */
  async start(): Promise<void> {
    if (!existsSync(this.#settings.control)) return
    this.undecided = this.#join()
    await this.undecided
    this.undecided = null
  }

  /** Whether the previous version may hand over an address: then {@link adopt} is called. */
  get adopts(): boolean {
    return this.#service?.adopts ?? false
  }

  /** Lets the server listen on the previous version's socket as if it had bound it; false if there is none. */
  adopt(server: net.Server, request: ListenRequest): boolean {
    return this.#service?.adopt(server, request) ?? false
  }

  /** Called before a server listens through Node. */
  listens(server: net.Server, request: ListenRequest): void {
    if (this.#excluded) return
    this.#stopWatching.get(server)?.()
    const waiting = new WaitingServer(server)
    // Uses errorMonitor: an 'error' listener would hide an error that the program does not handle.
    const monitored: NodeJS.EventEmitter = server
    const listening = () => {
      off()
      void this.#take(waiting, request)
    }
    const stop = () => {
      off()
      waiting.handOver(() => {})
    }
    const failed = (error: Error) => {
      stop()
      // Some frameworks do not report the error.
      if (this.#settings.isStarted) sayOnce(`a server does not listen: ${messageOf(error)}`)
    }
    const off = () => {
      server.off('listening', listening)
      monitored.off(errorMonitor, failed)
      this.#stopWatching.delete(server)
    }
    server.prependListener('listening', listening)
    monitored.prependListener(errorMonitor, failed)
    this.#stopWatching.set(server, stop)
  }

  /** See {@link AutoSettings.ready}. */
  ready(): void {
    this.#isReady = true
    this.#service?.reportReady()
  }

  async #take(waiting: WaitingServer, request: ListenRequest): Promise<void> {
    // A program that closed its last server and listens again joins again.
    await this.#service?.leaving
    if (this.#service === null) await this.#join()
    if (this.#service === null) waiting.handOver(() => {})
    else this.#service.take(waiting, request)
  }

  #join(): Promise<void> {
    this.#joining ??= this.#joinNow().finally(() => {
      this.#joining = null
    })
    return this.#joining
  }

  async #joinNow(): Promise<void> {
    if (this.#excluded || this.#service !== null) return
    try {
      const { AutoService } = await loadService()
      this.#service = await AutoService.join(this.#settings, () => {
        this.#service = null
        noMember()
      })
    } catch (error) {
      sayOnce(`this process runs without upgrades: ${messageOf(error)}`)
    }
    this.#excluded = this.#service === null
    if (this.#excluded) noMember()
    if (this.#isReady) this.#service?.reportReady()
  }
}
