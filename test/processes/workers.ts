import type { WorkersReport } from '../../src/operator/status-report.js'
import { ask } from './client.js'
import { daemonStatus } from './daemon.js'
import { pause, until } from './until.js'

export interface MainStatus {
  readonly pid: number
  readonly generation: number
  readonly workers: WorkersReport
}

/** The status of a main process; tried again while it is just being replaced. */
export async function mainStatus(control: string): Promise<MainStatus> {
  return await until('the main process answers', async () => {
    try {
      return (await daemonStatus(control)) as unknown as MainStatus
    } catch {
      return null
    }
  })
}

/** Waits for a status of a main process. */
export async function mainWhere(
  control: string,
  what: string,
  holds: (status: MainStatus) => boolean,
): Promise<MainStatus> {
  let last: MainStatus | undefined
  return await until(
    what,
    async () => {
      last = await mainStatus(control)
      return holds(last) ? last : null
    },
    20_000,
    () => last,
  )
}

/** All of so many workers serve, and no other process. */
export function servedByAll(count: number): (status: MainStatus) => boolean {
  return ({ workers: { all } }) =>
    all.filter(({ phase }) => phase === 'serving').length === count &&
    all.every(({ phase, pid }) => phase === 'serving' || pid === null)
}

/** The processes that serve, by their places. */
export function pidsOf({ workers: { all } }: MainStatus): (number | null)[] {
  return all.map(({ pid }) => pid)
}

/** Clients that come one after the other, each on a connection of its own, until they are stopped. */
export class Clients {
  /** How often each process has answered. */
  readonly answered = new Map<string, number>()
  /** Codes of what failed. */
  readonly failures: string[] = []
  readonly #over = new AbortController()
  readonly #all: Promise<unknown>

  constructor(url: string, several = 4) {
    this.#all = Promise.all(Array.from({ length: several }, () => this.#ask(url)))
  }

  /** Waits for so many more answers. */
  async more(count: number): Promise<void> {
    const before = this.#sum
    await until(
      `${count} more answers`,
      () => this.#sum >= before + count,
      20_000,
      () => this.failures,
    )
  }

  async stop(): Promise<void> {
    this.#over.abort()
    await this.#all
  }

  get #sum(): number {
    return [...this.answered.values()].reduce((sum, one) => sum + one, 0)
  }

  async #ask(url: string): Promise<void> {
    while (!this.#over.signal.aborted) {
      try {
        const { headers } = await ask(`${url}/r/1`).answer
        const pid = String(headers['x-pid'])
        this.answered.set(pid, (this.answered.get(pid) ?? 0) + 1)
      } catch (error) {
        this.failures.push((error as NodeJS.ErrnoException).code ?? String(error))
      }
      // The processor is for the workers.
      await pause(5)
    }
  }
}
