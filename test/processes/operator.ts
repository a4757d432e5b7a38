import { withAges } from '../../src/cli/status.js'
import { closeAll } from '../../src/kernel/index.js'
import type { StatusReport } from '../../src/operator/status-report.js'
import { fdbroker } from '../../src/proto/wire.js'
import { Channel } from '../../src/wire/channel.js'
import { Link, VERSIONS, type WireBody, type WireEnvelope } from '../../src/wire/link.js'
import { GivenTime } from './given-time.js'
import { pause } from './until.js'

/** Connects as an operator's tool does, asks, and waits for the first answer that `pick` takes. */
export async function ask<T>(
  control: string,
  question: WireBody,
  pick: (envelope: WireEnvelope) => T | undefined,
  timeoutMs = 60_000,
): Promise<T> {
  const link = new Link(await Channel.connect(control, { timeoutMs }))
  try {
    return await new Promise<T>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs)
      const end = (error: Error | null) => {
        clearTimeout(timer)
        reject(error ?? new Error('the channel ended without an answer'))
      }
      link.start({
        message: (envelope, fds) => {
          closeAll(fds)
          if (envelope.reject)
            return end(Object.assign(new Error(envelope.reject.message ?? ''), envelope.reject))
          const answer = pick(envelope)
          if (answer === undefined) return
          clearTimeout(timer)
          resolve(answer)
        },
        bundle: items => closeAll(items.map(item => item.fd)),
        broken: end,
        end,
      })
      const { min: versionMin, max: versionMax } = VERSIONS
      link.post({
        hello: { versionMin, versionMax, intent: fdbroker.wire.Intent.OPERATE, pid: process.pid },
      })
      link.post(question)
    })
  } finally {
    link.close()
  }
}

/** Rejects where no process answers. */
function statusOnce(control: string, timeoutMs: number): Promise<StatusReport> {
  return ask(
    control,
    { statusRequest: {} },
    ({ status: answer }) => (answer ? (JSON.parse(answer.json ?? '') as StatusReport) : undefined),
    timeoutMs,
  )
}

/** The output of `fd-broker status --json`, without a process for each question. Rejects where no process answers. */
export async function printedStatus(control: string): Promise<StatusReport> {
  return withAges(await statusOnce(control, 5_000)) as StatusReport
}

/** The `status` of the serving process. A process that is just being replaced may close the connection: asked again then. */
export async function status(control: string, timeoutMs = 5_000): Promise<StatusReport> {
  const time = new GivenTime()
  for (;;) {
    try {
      return await statusOnce(control, Math.min(1_000, timeoutMs))
    } catch (error) {
      if (time.now() >= timeoutMs) throw error
      await pause(10)
    }
  }
}
