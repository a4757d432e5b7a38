import { fdbroker } from '../../proto/proxy.js'
import { type Stamp, unknownFields } from '../entries/difference.js'
import { messageSection } from '../entries/message-section.js'

/** A stored change of a server, including fields of newer versions. Do not change it. */
export type ServerMessage = fdbroker.proxy.ServerChange

export const SERVERS = 'servers'

export const serversSection = messageSection<ServerMessage, fdbroker.proxy.ServerChange.$Properties>(
  fdbroker.proxy.ServerChange,
)

/** Creates a stored change. Keeps the fields of newer versions from the replaced change `before`. */
export function serverMessage(
  change: { added: boolean; drained: boolean; weight: number; backup: boolean },
  stamp: Stamp,
  before: ServerMessage | undefined,
): ServerMessage {
  const message = fdbroker.proxy.ServerChange.create({ ...change, ...stamp })
  const newerFields = unknownFields(before)
  if (newerFields.length > 0) message.$unknowns = newerFields
  return message
}

/** Returns the name of a server: its upstream's name and its address. */
export function serverName(upstream: string, server: string): string {
  return `${upstream} ${server}`
}

export function parseServerName(name: string): { upstream: string; server: string } {
  const space = name.indexOf(' ')
  return { upstream: name.slice(0, space), server: name.slice(space + 1) }
}
