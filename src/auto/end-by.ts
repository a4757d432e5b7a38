import { constants } from 'node:os'

/** The default action of a signal. The kernel ignores it for PID 1 of a container, which would stay without a service. */
export function endBy(signal: NodeJS.Signals): void {
  process.kill(process.pid, signal)
  if (process.pid === 1) process.exit(128 + constants.signals[signal])
}
