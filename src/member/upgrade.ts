import { FdbError } from '../errors.js'
import type { Upgraded, UpgradeProgress } from '../holder/operator.js'
import { startedAs, successorCommand } from '../host/command-line.js'
import { spawnSuccessor } from '../host/spawn-successor.js'
import type { Party } from './party.js'

export interface UpgradeOptions {
  argv?: readonly string[]
  env?: NodeJS.ProcessEnv
  signal?: AbortSignal
  timeout?: number
  progress?: (step: UpgradeProgress) => void
}

/** One process starts one successor at a time. */
const underWay = new WeakSet<Party>()

/** Starts this process's successor and waits until it serves. See `Member.upgrade`. */
export async function upgradeSelf(party: Party, options: UpgradeOptions): Promise<Upgraded> {
  const { settings } = party
  if (settings.control === null) {
    throw new FdbError(
      'ERR_FDB_NO_CONTROL',
      'this process runs with control: false and cannot be upgraded: give join() a control path',
    )
  }
  if (party.phase !== 'serving' || underWay.has(party)) {
    throw new FdbError(
      'ERR_FDB_BUSY',
      `an upgrade is under way, or this process does not serve (it is ${party.phase}): try again later`,
      { retryable: true },
    )
  }
  underWay.add(party)
  const progress = options.progress ?? (() => {})
  try {
    const argv = options.argv !== undefined && options.argv.length > 0 ? options.argv : undefined
    const command = successorCommand({
      ...(argv === undefined ? {} : { argv }),
      ...(options.env === undefined ? {} : { env: options.env }),
    })
    const child = await spawnSuccessor(command, { logger: settings.logger })
    child.unref()
    progress({ phase: 'started', at: Date.now(), pid: child.pid })
    return await outcome(party, child, options, progress)
  } finally {
    underWay.delete(party)
  }
}

function outcome(
  party: Party,
  child: Awaited<ReturnType<typeof spawnSuccessor>>,
  options: UpgradeOptions,
  progress: (step: UpgradeProgress) => void,
): Promise<Upgraded> {
  const { times, timeout } = party.settings
  const limit = options.timeout ?? times.ready + times.freeze + times.prepare + times.commit + timeout
  const failureBefore = party.holder?.timeline.lastFailure ?? null
  return new Promise((resolve, reject) => {
    let phase = 'idle'
    const done = () => {
      clearTimeout(timer)
      options.signal?.removeEventListener('abort', aborted)
      stop()
    }
    const fail = (error: unknown) => {
      done()
      reject(error)
    }
    const look = () => {
      if (party.phase === 'standby' || party.phase === 'leaving') {
        done()
        progress({ phase: 'serving', at: Date.now(), pid: child.pid })
        resolve({ pid: child.pid, generation: party.generation + 1 })
        return
      }
      const failure = party.holder?.timeline.lastFailure ?? null
      if (failure !== null && failure !== failureBefore) {
        fail(
          new FdbError(
            failure.code as `ERR_FDB_${string}`,
            `${failure.message} (phase ${failure.phase}; this process serves on)`,
            { phase: failure.phase },
          ),
        )
        return
      }
      const now = party.holderState?.phase ?? phase
      if (now === phase) return
      phase = now
      progress({ phase, at: Date.now(), pid: child.pid })
    }
    const stop = party.watch(look)
    const timer = setTimeout(
      () =>
        fail(
          new FdbError(
            'ERR_FDB_DEADLINE',
            `the successor ${child.pid} did not serve within ${limit} ms (phase ${phase}); this process serves on`,
          ),
        ),
      limit,
    )
    const aborted = () => fail(options.signal?.reason)
    if (options.signal?.aborted) aborted()
    else options.signal?.addEventListener('abort', aborted, { once: true })
    void child.exited.then(({ code, signal }) => {
      // Once it has joined, the handoff itself tells what became of it.
      setTimeout(() => {
        const how = signal === null ? `with code ${code}` : `by ${signal}`
        fail(
          new FdbError(
            'ERR_FDB_SUCCESSOR_EXITED',
            `the successor ${child.pid} (${startedAs.argv0} …) ended ${how} before it served: see its own output; this process serves on`,
            { details: { code, signal } },
          ),
        )
      }, 200).unref()
    })
    look()
  })
}
