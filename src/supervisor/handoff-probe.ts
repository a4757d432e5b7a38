import { isDaemon } from '../operator/answer.js'
import { OperatorClient } from '../operator/client.js'
import { endsWithUs, statOf } from '../process/main-process.js'
import type { Probe } from './probe.js'
import { Repeated } from './repeated-probe.js'
import type { Asking } from './settings.js'

const ANSWER_MS = 2_000

/** A version that speaks fd-broker: it is ready when it serves, or what it has started. */
export function handoffProbe(control: string, asking: Asking): Probe {
  const questionTo = (pid: number) => ({
    asked: `who serves at ${control}`,
    async ask() {
      const server = await whoServes(control)
      if (server !== null && descends(server, pid)) return null
      return server === null ? 'nobody' : `process ${server}`
    },
  })
  const asked = new Repeated(questionTo, asking)
  // A version that serves may hand over by itself: the process is another's then.
  return Object.assign(asked, { serves: undefined })
}

/** Who serves there, if it is this process's descendant; null: nobody, or somebody else. Never rejects. */
export async function servesForUs(control: string): Promise<number | null> {
  const pid = await whoServes(control).catch(() => null)
  return pid !== null && endsWithUs(pid) ? pid : null
}

async function whoServes(control: string): Promise<number | null> {
  using client = await OperatorClient.connect(control, { timeoutMs: ANSWER_MS })
  const answer = await client.status({ timeoutMs: ANSWER_MS })
  const { pid, role } = isDaemon(answer) ? { pid: null, role: null } : answer
  return role === 'serving' ? (pid ?? null) : null
}

function descends(pid: number, from: number): boolean {
  for (let at = pid; at > 1; at = statOf(at)?.parent ?? 0) if (at === from) return true
  return false
}
