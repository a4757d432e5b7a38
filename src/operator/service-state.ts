import { setTimeout as sleep } from 'node:timers/promises'
import { types } from 'node:util'
import { nodeCrypto } from '../base/lazy.js'
import { checkOptions } from '../checks/options.js'
import { wrongOption } from '../checks/place.js'
import { absent, map, optional, type ShapeOf } from '../checks/shape.js'
import { unchecked } from '../checks/values.js'
import type { DeleteReply, EntryReply, EntryRequest } from '../state/commands.js'
import type { StateLog } from '../state/state-log.js'
import { ASK, type AskOptions } from './requests.js'

/** Interval at which a watch checks for changes. */
const LOOK_MS = 200

export interface StateAsk extends AskOptions {
  /** Name of the service, for a daemon that holds several. */
  service?: string | undefined
}

export interface StateReadOptions extends StateAsk {
  /** Includes secret sections. Default false. */
  secrets?: boolean | undefined
}

export interface StateWatchOptions extends StateReadOptions {
  /** Watches only this section, which need not exist yet. Default: all sections. */
  section?: string | undefined
  /** First yields a `put` for each existing entry. Default false. */
  initial?: boolean | undefined
}

export interface StateWriteOptions extends StateAsk {
  /** Id of the change: if it is retried with the same id, it is made only once. Default: a random id. */
  request?: string | undefined
}

/** A section that is in the log or that the serving process has registered. */
export interface StateSection {
  readonly name: string
  /** Version of the section's schema, or 0. */
  readonly version: number
  /** The lowest schema version that can read the section. */
  readonly minReader: number
  /** Name of the codec that encodes the values; '' if unknown. */
  readonly codec: string
  readonly secret: boolean
  readonly entries: number
}

export interface StateEntry {
  readonly section: string
  readonly key: string
  /** Encoded by the section's codec. */
  readonly value: Uint8Array
  /** Version of the schema with which the value was written, or 0. */
  readonly version: number
}

/** `clear`: all entries of the section were deleted. */
export type StateChange =
  | ({ readonly op: 'put' } & StateEntry)
  | { readonly op: 'delete'; readonly section: string; readonly key: string }
  | { readonly op: 'clear'; readonly section: string }

const ASKED = { ...ASK, service: absent(unchecked<string>()) } satisfies ShapeOf<StateAsk>
const ASKED_TO_READ = {
  ...ASKED,
  secrets: optional(unchecked<boolean>(), false),
} satisfies ShapeOf<StateReadOptions>
const ASK_STATE = map(ASKED)
const READ = map(ASKED_TO_READ)
const WATCH = map({
  ...ASKED_TO_READ,
  section: absent(unchecked<string>()),
  initial: optional(unchecked<boolean>(), false),
} satisfies ShapeOf<StateWatchOptions>)
const WRITE = map({ ...ASKED, request: absent(unchecked<string>()) } satisfies ShapeOf<StateWriteOptions>)

/** Imported when first needed: most clients do not request the state. */
const commands = () => import('../state/commands.js')

async function newCopy() {
  const { StateCopy } = await import('./state-copy.js')
  return new StateCopy()
}

type SendCommand = (command: string, body: Uint8Array | string, options: StateAsk) => Promise<Buffer>

/**
 * Reads and changes the state of the serving process; values are encoded. All methods reject as `OperatorClient.command()` does. After a
 * `retryable` error connect again and retry: a change with the same `request` id is made only once.
 */
export class ServiceState {
  readonly #ask: SendCommand

  /** @internal See `OperatorClient.state`. */
  constructor(ask: SendCommand) {
    this.#ask = ask
  }

  /** Returns the sections that are in the log or that the serving process has registered, including secret ones, sorted by name. */
  async sections(options: StateAsk = {}): Promise<StateSection[]> {
    checkOptions('sections()', options, ASK_STATE)
    const { STATE_COMMANDS } = await commands()
    return JSON.parse((await this.#ask(STATE_COMMANDS.sections, '', options)).toString())
  }

  /**
   * Returns the entries of a section, or of all sections that are not secret, from a verified copy of the log. Rejects with
   * ERR_FDB_STATE_NO_ENTRY (unknown section), ERR_FDB_STATE_SECRET or ERR_FDB_STATE_DIGEST.
   */
  async list(section?: string, options: StateReadOptions = {}): Promise<StateEntry[]> {
    const { secrets, ...ask } = checkOptions('list()', options, READ)
    using copy = await newCopy()
    await copy.readNew((command, body) => this.#ask(command, body, ask))
    const { log } = copy
    const names = namesIn(log, section)
    // If the section is registered and empty, get() returns; if it is unknown, get() throws.
    if (section !== undefined && names.length === 0) await this.get(section, '', options)
    const hidden = await hiddenIn(log, section, secrets)
    return names.flatMap(name => {
      if (hidden.has(name)) return []
      const entries = log.rawSection(name)
      return [...entries.keys()].sort().map(key => ({ section: name, ...entries.get(key)! }))
    })
  }

  /** Returns an entry, or undefined. Rejects with ERR_FDB_STATE_NO_ENTRY (unknown section) or ERR_FDB_STATE_SECRET. */
  async get(section: string, key: string, options: StateReadOptions = {}): Promise<StateEntry | undefined> {
    const { secrets, ...ask } = checkOptions('get()', options, READ)
    const body = JSON.stringify({ section, key, secrets } satisfies EntryRequest)
    const { STATE_COMMANDS, withHead } = await commands()
    const { head, rest } = withHead<EntryReply>(await this.#ask(STATE_COMMANDS.get, body, ask))
    return head.version === undefined ? undefined : { section, key, value: rest, version: head.version }
  }

  /**
   * Yields the changes after the first `next()`. Looks for changes five times a second: several changes of an entry between two looks, or
   * while the loop handles a change, are yielded as one, with the latest value. Throws if the process disconnects or `signal` aborts, and
   * ERR_FDB_STATE_SECRET.
   */
  async *watch(options: StateWatchOptions = {}): AsyncGenerator<StateChange, void, undefined> {
    const { section, secrets, initial, ...ask } = checkOptions('watch()', options, WATCH)
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
   * Puts an encoded value into a section of the serving process. Rejects as {@link Section.put} does; with ERR_FDB_STATE_NO_ENTRY if that
   * process does not know the section; with ERR_FDB_STATE_VALUE if the section's codec or `validate` refuses the value.
   */
  async put(section: string, key: string, value: Uint8Array, options: StateWriteOptions = {}): Promise<void> {
    const { request = newRequest(), ...ask } = checkOptions('put()', options, WRITE)
    if (!types.isUint8Array(value)) throw wrongOption('value', value, 'bytes')
    const head: EntryRequest = { section, key, request }
    const { headed, STATE_COMMANDS } = await commands()
    await this.#ask(STATE_COMMANDS.put, headed(head, value), ask)
  }

  /** Deletes an entry. Resolves with whether it existed. Rejects as {@link put} does. */
  async delete(section: string, key: string, options: StateWriteOptions = {}): Promise<boolean> {
    const { request = newRequest(), ...ask } = checkOptions('delete()', options, WRITE)
    const body = JSON.stringify({ section, key, request } satisfies EntryRequest)
    const { STATE_COMMANDS } = await commands()
    const reply = await this.#ask(STATE_COMMANDS.delete, body, ask)
    return (JSON.parse(reply.toString()) as DeleteReply).existed
  }
}

function newRequest(): string {
  return `operator ${nodeCrypto().randomUUID()}`
}

/** Returns the names of secret sections; with `secrets` none. Rejects with ERR_FDB_STATE_SECRET if `only` is one of them. */
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

/** Collects which entries of a copy of the state have changed, until {@link of} yields them. */
class EntryChanges {
  readonly #log: StateLog
  readonly #changed = new Map<string, ChangedKeys>()

  constructor(log: StateLog) {
    this.#log = log
  }

  /** Names of the followed sections, including those that are no longer in the state. */
  get followed(): readonly string[] {
    return [...this.#changed.keys()]
  }

  /** Starts to collect the changes of a section. The entries that it already has count as changed. */
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

  /** Discards the collected changes. */
  forget(): void {
    for (const changed of this.#changed.values()) {
      changed.cleared = false
      changed.keys.clear()
    }
  }

  /** Yields the collected changes with the current values. The copy must not be updated during the iteration. */
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
