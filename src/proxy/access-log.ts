import type { Logger } from '../index.js'
import type { ExchangeReport } from '../relay/index.js'

/** One line for each request. What is not known is left out. */
export function accessLine(log: Pick<Logger, 'info'>, report: ExchangeReport): void {
  const { listener, client, method, target, host, status, reason, destination, attempts, bytesSent } = report
  log.info(
    {
      listener,
      client: client || undefined,
      method: method || undefined,
      host: host || undefined,
      target: target || undefined,
      status,
      reason,
      upstream: destination,
      attempts: attempts > 1 ? attempts : undefined,
      bytes: bytesSent,
      ms: Math.round(report.milliseconds * 10) / 10,
    },
    'request',
  )
}
