import { findOccupant, parseListenerSpec } from '../listeners/index.js'
import { plain } from './output.js'

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
    return pid === serving
      ? `port ${port} is in use by process ${pid}, which serves: the next version did not take over its socket. Does the command of the next version load fd-broker, as node --import fd-broker/auto server.js does?`
      : `port ${port} is in use by process ${pid} (${plain(command)})`
  } catch {
    return null
  }
}
