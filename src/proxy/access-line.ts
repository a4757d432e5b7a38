import type { Logger } from '../index.js'
import type { ExchangeReport } from '../relay/index.js'
import { encodeNonAscii } from './routes/variables.js'

/** Logs one line for a request or a TCP connection. Omits unknown fields. */
export function logAccess(log: Pick<Logger, 'info'>, report: ExchangeReport): void {
  const { subject, listener, client, method, target, host, status, reason, destination, attempts } = report
  const { bytesSent, bytesReceived } = report
  const tcp = subject === 'tcp'
  log.info(
    {
      listener,
      client: client || undefined,
      protocol: report.http2 ? 'HTTP/2' : undefined,
      method: method || undefined,
      host: host || undefined,
      target: encodeNonAscii(target) || undefined,
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
