/** The commands that `fd-broker servers` sends to a running proxy. Request and reply are JSON. */
import { jsonValue } from '../../base/json.js'
import type { Member } from '../../index.js'
import type { ListedServer, LiveServers } from './live-servers.js'

export const SERVER_COMMANDS = { change: 'servers.change', list: 'servers.list' } as const

export interface ServerList {
  servers: ListedServer[]
}

export function serveServerCommands(member: Member, servers: LiveServers): void {
  member
    .command(SERVER_COMMANDS.change, async (body, { signal }) =>
      JSON.stringify(await servers.changeServer(jsonValue(body.toString()), signal)),
    )
    .command(SERVER_COMMANDS.list, () => {
      const reply: ServerList = { servers: servers.list() }
      return JSON.stringify(reply)
    })
}
