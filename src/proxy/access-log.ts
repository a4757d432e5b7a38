import type { Logger } from '../index.js'
import type { ExchangeReport } from '../relay/index.js'

/** One line for each request, or each connection that is forwarded whole. What is not known is left out. */
export function accessLine(log: Pick<Logger, 'info'>, report: ExchangeReport): void {
  const { subject, listener, client, method, target, host, status, reason, destination, attempts } = report
  const { bytesSent, bytesReceived } = report
  const tcp = subject === 'tcp'
  log.info(
    {
      listener,
      client: client || undefined,
      method: method || undefined,
      host: host || undefined,
      target: escaped(target) || undefined,
      status: tcp ? undefined : status,
      reason,
      upstream: destination,
      attempts: attempts > 1 ? attempts : undefined,
      bytes: bytesSent,
      received: tcp ? bytesReceived : undefined,
      ms: Math.round(report.milliseconds * 10) / 10,
    },
    tcp ? 'connection' : 'request',
  )
}

/** The bytes above ASCII of a target, which is latin1, escaped as a client may send them too. */
function escaped(target: string): string {
  return target.replace(/[\x80-\xff]/g, byte => `%${byte.charCodeAt(0).toString(16).toUpperCase()}`)
}
