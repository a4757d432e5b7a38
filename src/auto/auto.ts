import { existsSync } from 'node:fs'
import type net from 'node:net'
import { expectMember, noMember } from '../member/joining/process-member.js'
import { handleOf } from '../node/held-handle.js'
import { observe } from '../node/observed-events.js'
import { startingProcesses } from '../os/main-process.js'
import { endVersion, isEndOfUpgrade } from './ended-upgrade.js'
import type { ListenRequest } from './listen-request.js'
import type { AutoService } from './service.js'
import type { AutoSettings } from './settings.js'
import { codeAndMessageOf, messageOf, printReason } from './stderr.js'
import { WaitingServer } from './waiting-server.js'

/**
 * Makes the servers of a program listeners of a service, which it joins when the program calls `listen()` for the first time: processes that
 * never listen (tools that start the program, its children) do not take the place of a next version. If another version serves, servers
 * wait until this process has its sockets. Otherwise the library is loaded after the first server has started to listen, which answers
 * clients meanwhile.
 */
export class Auto {
  readonly #settings: AutoSettings
  readonly #stopWatching = new WeakMap<net.Server, () => void>()
  #service: AutoService | null = null
  /** The last service, also after this program has left it. */
  #joined: AutoService | null = null
  #joining: Promise<void> | null = null
  #excluded = false
  #isReady = false
  #undecided: Promise<unknown> | null = null
  #isDecided = false
  readonly #starters = startingProcesses()
  /** Null if no other version serves. See {@link AutoService.announceStart}. */
  readonly announced: Promise<() => void> | null

  constructor(settings: AutoSettings) {
    this.#settings = settings
    this.announced = existsSync(settings.control) ? this.#announce() : null
    if (this.announced !== null) expectMember()
    // Now, before libraries replace process.emit(), which some of them restore later.
    observe(
      process,
      {
        beforeExit: () => this.#service?.beforeExit(),
        SIGINT: () => this.#service?.shutdown.passes('SIGINT'),
        SIGTERM: () => this.#service?.shutdown.passes('SIGTERM'),
      },
      { exit: () => this.#joined?.exits() },
    )
  }

  /** Resolves when it is known whether another version serves; this process then has its sockets. Null if that is known. Never rejects. */
  get undecided(): Promise<unknown> | null {
    if (this.#undecided !== null) return this.#undecided
    const handingBack = this.#service?.handingBack ?? null
    if (this.#isDecided && handingBack === null) return null
    this.#isDecided = true
    if (!existsSync(this.#settings.control)) return null
    // A pending promise does not keep the process alive.
    const alive = setInterval(() => {}, 60_000)
    this.#undecided = Promise.resolve(handingBack)
      .then(() => this.#join())
      .then(() => {
        clearInterval(alive)
        this.#undecided = null
        void this.announced?.then(end => end())
      })
    return this.#undecided
  }

  /** Whether the previous version may offer a socket for the next server: {@link adopt} tries it. */
  get adopts(): boolean {
    return this.#service?.adopts ?? false
  }

  /** Lets the server listen on the previous version's socket, as if it had bound the address itself. Returns false if there is no such socket. */
  adopt(server: net.Server, request: ListenRequest): boolean {
    return this.#service?.adopt(server, request) ?? false
  }

  /** Called before the program's call of `listen()` goes to Node. Makes the server a listener of the service after it has started to listen. */
  watch(server: net.Server, request: ListenRequest): void {
    if (this.#excluded) return
    this.#stopWatching.get(server)?.()
    const waiting = new WaitingServer(server)
    const listening = () => {
      off()
      void this.#attach(waiting, request)
    }
    const stop = () => {
      off()
      waiting.handOver(() => {})
    }
    const failed = (error: Error) => {
      stop()
      // `fd-broker start` and `upgrade` show this line if they fail. Some frameworks do not log the error, or throw another one.
      if (!this.#settings.isStarted) return
      printReason(`a server does not listen: ${messageOf(error)}`)
    }
    const stopObserving = observe(server, { listening, error: failed })
    const off = () => {
      stopObserving()
      this.#stopWatching.delete(server)
    }
    this.#stopWatching.set(server, stop)
  }

  /** Tells the version that serves that this process starts, unless it is a child of that program. Never rejects. */
  async #announce(): Promise<() => void> {
    try {
      const { AutoService } = await loadService()
      const end = await AutoService.announceStart(this.#settings.control, this.#starters)
      if (end !== null) return end
      noMember()
    } catch {
      // This process starts unannounced.
    }
    return () => {}
  }

  /**
   * Reports whether a process listens at the path of a Unix socket. False while the library is not loaded: when this process began no version served, and
   * no server of this process has listened since.
   */
  isListenedAt(path: string): boolean {
    return library?.AutoService.isListenedAt(path) ?? false
  }

  /** See {@link AutoSettings.ready}. */
  ready(): void {
    this.#isReady = true
    this.#service?.reportReady()
  }

  async #attach(waiting: WaitingServer, request: ListenRequest): Promise<void> {
    const handle = handleOf(waiting.server)
    // The program leaves the service when it closes its last server, and joins again when it listens again.
    await this.#service?.leaving
    if (this.#service === null) await this.#join()
    // A server that has closed and listens again meanwhile has another call of this function.
    if (this.#service === null || handleOf(waiting.server) !== handle) waiting.handOver(() => {})
    else this.#service.takeOver(waiting, request)
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
      // A process that has been a version of the service is no child of the program, although another version may have started it.
      const starters = this.#joined === null ? this.#starters : NONE
      this.#service = await AutoService.join(this.#settings, starters, () => {
        // The version that stood by serves again: a server that listens later gets its socket.
        if (this.#service?.handingBack) this.#isDecided = false
        this.#service = null
        noMember()
      })
    } catch (error) {
      if (isEndOfUpgrade(error)) endVersion(error)
      // Without the previous version's sockets a next version usually fails with EADDRINUSE.
      printReason(`this process runs without upgrades: ${codeAndMessageOf(error)}`)
    }
    this.#joined = this.#service ?? this.#joined
    this.#excluded = this.#service === null
    if (this.#excluded) noMember()
    if (this.#isReady) this.#service?.reportReady()
  }
}

const NONE: ReadonlySet<number> = new Set()

interface Library {
  readonly AutoService: typeof AutoService
}

/**
 * Loads the library in a turn of its own, because the program may already serve clients. The build replaces this import by a `require()`.
 *
 * Node's loader for `import` would make an EventEmitter (a FileHandle) for each file. After about 20 emitters V8 records the classes that
 * Node's EventEmitter functions see. With more than four classes property access in them is megamorphic, and a small HTTP server needs 2 to 4 %
 * more instructions for each request as long as it runs (Node 20, callgrind).
 */
async function loadService(): Promise<Library> {
  await new Promise(setImmediate)
  library = await import('./service.js')
  return library
}

let library: Library | null = null
