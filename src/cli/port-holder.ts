import { findOccupant, parseListenerSpec } from '../listeners/index.js'
import { plain } from './output.js'

/** Names the process at the address that a program could not bind according to its output; null if that is unknown. */
export function portHolderText(output: string | null): string | null {
  const [, host, port] = /EADDRINUSE: address already in use (\S+):(\d{1,5})$/m.exec(output ?? '') ?? []
  if (host === undefined) return null
  try {
    const occupant = findOccupant(parseListenerSpec({ kind: 'tcp', host, port: Number(port) }))
    if (occupant === null) return null
    return `port ${port} is in use by process ${occupant.pid} (${plain(occupant.command)})`
  } catch {
    return null
  }
}
