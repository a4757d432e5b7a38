import { findOccupant, parseListenerSpec } from '../listeners/index.js'
import { plain } from './output.js'

/** The notice of fd-broker/auto in a program that takes no part in an upgrade. */
const RUNS_ALONE = /^\s*fd-broker: .*\bruns without upgrades\b/m

/**
 * Names the process at the address that a program could not bind according to its output; null if that is unknown. `serving`: the process
 * that the program was to replace.
 */
export function portHolderText(output: string | null, serving?: number | null): string | null {
  const [, host, port] = /EADDRINUSE: address already in use (\S+):(\d{1,5})$/m.exec(output ?? '') ?? []
  if (host === undefined) return null
  try {
    const occupant = findOccupant(parseListenerSpec({ kind: 'tcp', host, port: Number(port) }))
    if (occupant === null) return null
    const { command, pid } = occupant
    if (pid !== serving) return `port ${port} is in use by process ${pid} (${plain(command)})`
    const why = RUNS_ALONE.test(output ?? '')
      ? 'fd-broker says below why it did not join'
      : 'Does the command of the next version load fd-broker, as node --import fd-broker/auto server.js does?'
    return `port ${port} is in use by process ${pid}, which serves: the next version did not take over its socket. ${why}`
  } catch {
    return null
  }
}
