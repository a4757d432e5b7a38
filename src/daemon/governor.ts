import type { Logger } from '../base/logger.js'
import { Gate } from './policy/gate.js'
import { OWNERS_ONLY } from './policy/owners-only.js'

/** Keeps the rules of a daemon as its file says them. */
export class Governor {
  readonly gate: Gate
  readonly #file: string | null
  readonly #logger: Logger

  /** `file` null: there is none, and others may do nothing. Rejects with ERR_FDB_CONFIG. */
  static async of(file: string | null, logger: Logger): Promise<Governor> {
    const policy = file === null ? OWNERS_ONLY : await read(file)
    return new Governor(new Gate(policy, logger), file, logger)
  }

  private constructor(gate: Gate, file: string | null, logger: Logger) {
    this.gate = gate
    this.#file = file
    this.#logger = logger
  }

  /** Rejects with ERR_FDB_CONFIG: the rules stay as they were. */
  async reload(): Promise<void> {
    if (this.#file === null) return
    this.gate.policy = await read(this.#file)
    this.#logger.info({ config: this.#file }, 'the configuration was read anew, and counts')
  }
}

/** Loaded here: a daemon without a file starts faster without. */
async function read(file: string) {
  const { readPolicy } = await import('./policy/read.js')
  return readPolicy(file)
}
