import { FdbError } from '../errors.js'
import { hasEnded, type OwnedFd } from '../kernel/index.js'
import { pidfdOfLiving } from '../os/liveness.js'
import { OperatorClient } from './client.js'
import { DAEMON_ITSELF } from './service-name.js'
import {
  type DaemonStatus,
  isDaemon,
  type ServiceStatus,
  STATUS_ANSWER_MS,
  type StatusAnswer,
} from './status-report.js'

const ASK_AGAIN_MS = 200
/** If no process answers for this long, and none is silent either, none serves. */
const UNANSWERED_MS = 3_000

/** The process that serves a service. */
export interface ServingProcess {
  /** The pid in this PID namespace; null if this process cannot see the other one. */
  readonly pid: number | null
  /** See `StatusReport`: a process that starts or leaves may answer too. */
  readonly role: string
}

/** The answer to the question which process serves: null if none does or listens at the control path; an error if no process has answered. */
export type Serving = ServingProcess | FdbError | null

/** Asks at the control path which process serves; null: the service has no control path. Never rejects. */
export async function askServing(
  control: string | null,
  service = '',
  timeout = STATUS_ANSWER_MS,
): Promise<Serving> {
  if (control === null) return null
  try {
    using client = await OperatorClient.connect(control, { timeout })
    const { pid, role = '' } = servingIn(await client.status({ timeout }), service) ?? {}
    return pid ? { pid: client.pidHere(pid), role } : null
  } catch (error) {
    const failure = FdbError.from(error)
    return failure.code === 'ERR_FDB_NO_HOLDER' ? null : failure
  }
}

/** As {@link askServing}: returns the pid, or null if none serves, none has answered, or this process cannot see it. */
export async function servingPid(control: string | null, service = ''): Promise<number | null> {
  return pidIn(await askServing(control, service))
}

function pidIn(serving: Serving): number | null {
  return serving === null || FdbError.is(serving) ? null : serving.pid
}

/**
 * Returns the status of one service from an answer that may list several. Without a name it is that of the process that answers: a daemon serves
 * itself, and a main process of workers does once all its workers serve.
 */
export function servingIn(answer: StatusAnswer, service: string): ServiceStatus | undefined {
  if (!isDaemon(answer)) return answer
  if (service === '' || service === DAEMON_ITSELF) return ofDaemonItself(answer)
  return answer.services.find(each => each.service === service)
}

function ofDaemonItself({ generation, pid, workers }: DaemonStatus): ServiceStatus {
  const starts = workers?.all?.some(({ phase }) => phase !== 'serving') ?? false
  return {
    service: DAEMON_ITSELF,
    role: starts ? 'ready' : 'serving',
    ...(pid && { pid }),
    ...(generation && { generation }),
  }
}

/** A living process that serves, or has served. The pidfd is borrowed. */
export interface ServerProcess {
  readonly pid: number
  readonly pidfd: OwnedFd
}

/** Knows the process that serves, from one version to the next, until the last one has ended: a process that does not answer may still serve. */
export class LastServer implements Disposable {
  readonly #ask: () => Promise<Serving>
  #known: ServerProcess | null

  /** `known`: the pid of a process that has served. */
  constructor(
    control: string | null,
    {
      service = '',
      known = null,
      timeout = STATUS_ANSWER_MS,
    }: { readonly service?: string; readonly known?: number | null; readonly timeout?: number } = {},
  ) {
    this.#ask = () => askServing(control, service, timeout)
    const pidfd = known === null ? null : pidfdOfLiving(known)
    this.#known = known !== null && pidfd !== null ? { pid: known, pidfd } : null
  }

  /** The process that has served at the last answer and still lives; null if there is none, or if this process cannot see it. */
  get present(): ServerProcess | null {
    return this.#known === null || hasEnded(this.#known.pidfd) ? null : this.#known
  }

  /** Asks which process serves. Never rejects. */
  async ask(): Promise<Serving> {
    const serving = await this.#ask()
    const pid = pidIn(serving)
    if (pid === null || pid === process.pid || pid === this.present?.pid) return serving
    const pidfd = pidfdOfLiving(pid)
    if (pidfd === null) return serving
    // Asked again: the same pid still serves, so the pidfd is not of another process that reuses the pid.
    const again = await this.#ask()
    if (pidIn(again) !== pid) {
      pidfd.close()
      return again
    }
    this.#known?.pidfd.close()
    this.#known = { pid, pidfd }
    return again
  }

  /**
   * As {@link ask}, but asks again while no process answers and no known one lives: for some seconds, and as long as one listens that is silent,
   * because it may serve. Never rejects.
   */
  async find(): Promise<Serving> {
    for (const until = performance.now() + UNANSWERED_MS; ; ) {
      const serving = await this.ask()
      if (!FdbError.is(serving) || this.present !== null) return serving
      if (serving.code !== 'ERR_FDB_DEADLINE' && performance.now() >= until) return serving
      await new Promise(resolve => setTimeout(resolve, ASK_AGAIN_MS))
    }
  }

  [Symbol.dispose](): void {
    this.#known?.pidfd.close()
    this.#known = null
  }
}
