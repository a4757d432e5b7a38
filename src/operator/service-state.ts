import { setTimeout as sleep } from 'node:timers/promises'
import { types } from 'node:util'
import { type Checks, checkOptions, unchecked, wrongOption } from '../base/check-option.js'
import { nodeCrypto } from '../base/lazy.js'
import type { DeleteReply, EntryReply, EntryRequest } from '../state/commands.js'
import type { StateLog } from '../state/state-log.js'
import { ASK, type AskOptions } from './requests.js'

/** A watch looks so often whether anything has changed. */
const LOOK_MS = 200

export interface StateAsk extends AskOptions {
  /** Which service of a daemon that holds several. */
  service?: string
}

export interface StateReadOptions extends StateAsk {
  /** Also of sections that are marked secret. Default false. */
  secrets?: boolean
}

export interface StateWatchOptions extends StateReadOptions {
  /** Only this section, which need not exist yet. Default: all. */
  section?: string
  /** Begins with the entries that there are, each as a `put`. Default false. */
  initial?: boolean
}

export interface StateWriteOptions extends StateAsk {
  /** A change that is tried again with the same id is made once. Default: one of its own. */
  request?: string
}

/** A section, as the log or the process that serves knows it. */
export interface StateSection {
  readonly name: string
  /** The version of its schema; 0: it has none. */
  readonly version: number
  /** The lowest version that may read it. */
  readonly minReader: number
  /** Empty: nothing is known of it. */
  readonly codec: string
  readonly secret: boolean
  readonly entries: number
}

/** An entry as it lies in the log. */
export interface StateEntry {
  readonly section: string
  readonly key: string
  /** As the section's codec has it. */
  readonly value: Uint8Array
  /** The schema version that wrote it; 0: none. */
  readonly version: number
}

/** `clear`: the section was emptied, before all that is told of it next. */
export type StateChange =
  | ({ readonly op: 'put' } & StateEntry)
  | { readonly op: 'delete'; readonly section: string; readonly key: string }
  | { readonly op: 'clear'; readonly section: string }

const ASK_STATE: Checks<StateAsk> = { ...ASK, service: unchecked }
const READ: Checks<StateReadOptions> = { ...ASK_STATE, secrets: unchecked }
const WATCH: Checks<StateWatchOptions> = { ...READ, section: unchecked, initial: unchecked }
const WRITE: Checks<StateWriteOptions> = { ...ASK_STATE, request: unchecked }

/** Loaded with the first question about the state: other clients have no use for a log. */
const commands = () => import('../state/commands.js')

async function newCopy() {
  const { StateCopy } = await import('./state-copy.js')
  return new StateCopy()
}

type Ask = (command: string, body: Uint8Array | string, options: StateAsk) => Promise<Buffer>

/**
 * The state of the process that serves, as bytes. All reject as `OperatorClient.command()` does. After a `retryable` error connect again; a change with a `request` of one's own is then made once.
 */
export class ServiceState {
  readonly #ask: Ask

  /** @internal See `OperatorClient.state`. */
  constructor(ask: Ask) {
    this.#ask = ask
  }

  /** The sections that are in the log or registered by the process that serves, by name; secret ones too. */
  async sections(options: StateAsk = {}): Promise<StateSection[]> {
    checkOptions('sections()', options, ASK_STATE)
    const { STATE_COMMANDS } = await commands()
    return JSON.parse((await this.#ask(STATE_COMMANDS.sections, '', options)).toString())
  }

  /**
   * The entries of a section, or of all that are not secret, from a copy of the log, which is verified. Rejects with ERR_FDB_STATE_NO_ENTRY (there
   * is no such section), ERR_FDB_STATE_SECRET, ERR_FDB_STATE_DIGEST.
   */
  async list(section?: string, options: StateReadOptions = {}): Promise<StateEntry[]> {
    checkOptions('list()', options, READ)
    const { secrets = false, ...ask } = options
    using copy = await newCopy()
    await copy.readNew((command, body) => this.#ask(command, body, ask))
    const { log } = copy
    const names = namesIn(log, section)
    // Registered, and empty: no error.
    if (section !== undefined && names.length === 0) await this.get(section, '', options)
    const hidden = await hiddenIn(log, section, secrets)
    return names.flatMap(name => {
      if (hidden.has(name)) return []
      const entries = log.rawSection(name)
      return [...entries.keys()].sort().map(key => ({ section: name, ...entries.get(key)! }))
    })
  }

  /** Undefined: there is no such entry. Rejects with ERR_FDB_STATE_NO_ENTRY (no such section), ERR_FDB_STATE_SECRET. */
  async get(section: string, key: string, options: StateReadOptions = {}): Promise<StateEntry | undefined> {
    checkOptions('get()', options, READ)
    const { secrets = false, ...ask } = options
    const body = JSON.stringify({ section, key, secrets } satisfies EntryRequest)
    const { STATE_COMMANDS, withHead } = await commands()
    const { head, rest } = withHead<EntryReply>(await this.#ask(STATE_COMMANDS.get, body, ask))
    return head.version === undefined ? undefined : { section, key, value: rest, version: head.version }
  }

  /**
   * The changes from the first look on, which the first `next()` takes. It looks five times a second: an entry that changed more than once
   * between two looks, or while a change was being handled, is told as it is then. Ends with the loop; throws when the process leaves, when
   * `signal` aborts, and with ERR_FDB_STATE_SECRET.
   */
  async *watch(options: StateWatchOptions = {}): AsyncGenerator<StateChange, void, undefined> {
    checkOptions('watch()', options, WATCH)
    const { section, secrets = false, initial = false, ...ask } = options
    const { signal } = ask
    using copy = await newCopy()
    const { log } = copy
    const changes = new EntryChanges(log)
    if (section !== undefined) changes.follow(section)
    for (let first = true; ; first = false) {
      await copy.readNew((command, body) => this.#ask(command, body, ask))
      const hidden = await hiddenIn(log, section, secrets)
      for (const name of namesIn(log, section)) if (!hidden.has(name)) changes.follow(name)
      if (first && !initial) changes.forget()
      for (const name of changes.followed) if (!hidden.has(name)) yield* changes.of(name)
      await sleep(LOOK_MS, undefined, { signal }).catch(() => signal?.throwIfAborted())
    }
  }

  /**
   * Made by the process that serves. The section must be known there; where it has a codec, and checks, they must take the bytes:
   * ERR_FDB_STATE_NO_ENTRY, ERR_FDB_STATE_VALUE; otherwise as {@link Section.put}.
   */
  async put(section: string, key: string, value: Uint8Array, options: StateWriteOptions = {}): Promise<void> {
    checkOptions('put()', options, WRITE)
    if (!types.isUint8Array(value)) throw wrongOption('value', value, 'bytes')
    const { request = newRequest(), ...ask } = options
    const head = JSON.stringify({ section, key, request } satisfies EntryRequest)
    const { STATE_COMMANDS } = await commands()
    await this.#ask(STATE_COMMANDS.put, Buffer.concat([Buffer.from(`${head}\n`), value]), ask)
  }

  /** Resolves with whether there was an entry. Rejects as {@link put} does. */
  async delete(section: string, key: string, options: StateWriteOptions = {}): Promise<boolean> {
    checkOptions('delete()', options, WRITE)
    const { request = newRequest(), ...ask } = options
    const body = JSON.stringify({ section, key, request } satisfies EntryRequest)
    const { STATE_COMMANDS } = await commands()
    const reply = await this.#ask(STATE_COMMANDS.delete, body, ask)
    return (JSON.parse(reply.toString()) as DeleteReply).existed
  }
}

function newRequest(): string {
  return `operator ${nodeCrypto().randomUUID()}`
}

/** Sections that are not to be shown. Rejects with ERR_FDB_STATE_SECRET where it is the one that was asked for. */
async function hiddenIn(
  log: StateLog,
  only: string | undefined,
  secrets: boolean,
): Promise<ReadonlySet<string>> {
  const hidden = new Set(log.schemas().flatMap(({ name, secret }) => (secret && !secrets ? name : [])))
  if (only !== undefined && hidden.has(only)) throw (await commands()).secretSection(only)
  return hidden
}

function namesIn(log: StateLog, only: string | undefined): string[] {
  return log.schemas().flatMap(({ name }) => (only === undefined || name === only ? name : []))
}

interface ChangedKeys {
  cleared: boolean
  readonly keys: Set<string>
}

/** Which entries of a copy have changed and were not told. */
class EntryChanges {
  readonly #log: StateLog
  readonly #changed = new Map<string, ChangedKeys>()

  constructor(log: StateLog) {
    this.#log = log
  }

  /** One may be gone from the state by now. */
  get followed(): readonly string[] {
    return [...this.#changed.keys()]
  }

  /** All that it has by now has changed. */
  follow(name: string): void {
    if (this.#changed.has(name)) return
    const changed: ChangedKeys = { cleared: false, keys: new Set(this.#log.rawSection(name).keys()) }
    this.#changed.set(name, changed)
    this.#log.section(name).onChange(({ op, key }) => {
      if (op !== 'clear') {
        changed.keys.add(key)
        return
      }
      changed.cleared = true
      changed.keys.clear()
    })
  }

  forget(): void {
    for (const changed of this.#changed.values()) {
      changed.cleared = false
      changed.keys.clear()
    }
  }

  /** As they are now: the copy must not move on before all are told. */
  *of(section: string): Generator<StateChange, void> {
    const changed = this.#changed.get(section)!
    if (changed.cleared) yield { op: 'clear', section }
    const entries = this.#log.rawSection(section)
    for (const key of changed.keys) {
      const entry = entries.get(key)
      yield entry ? { op: 'put', section, ...entry } : { op: 'delete', section, key }
    }
    changed.cleared = false
    changed.keys.clear()
  }
}
