import { FdbError } from '../errors.js'
import { SERVER_COMMANDS, type ServerList } from '../proxy/servers/commands.js'
import type { ListedServer, ServerReply, ServerRequest } from '../proxy/servers/live-servers.js'
import { type AnswerFlags, commandService, IDEMPOTENT_RETRY_CODES, ofServiceWith } from './ask-service.js'
import type { Command } from './command.js'
import { addAskOptions } from './find-service.js'
import { formatDuration, print, table } from './output.js'

type ChangeFlags = AnswerFlags & { weight?: string; backup?: boolean }

export function addServers(program: Command): void {
  const servers = program
    .command('servers')
    .description('show and change the servers of a running proxy; changes survive upgrades')
  addAskOptions(servers.command('list'))
    .description('show all servers with their states')
    .examples('fd-broker servers list --control /run/edge/upgrade.sock --json')
    .action(list)
  changing(servers, 'drain', 'send no new requests to a server; requests in flight go on')
  changing(servers, 'undrain', 'send requests to a drained server again')
  addAskOptions(servers.command('weight'))
    .description('change the share of the requests that a server gets')
    .argument('<upstream>', 'name of the upstream')
    .argument('<server>', 'address of the server, as in the configuration file')
    .argument('<weight>', '1 to 1000, relative to the other servers; file: as in the file')
    .examples('fd-broker servers weight --control /run/edge/upgrade.sock app http://10.0.0.1:8080 3')
    .action((upstream: string, server: string, weight: string, flags: AnswerFlags) =>
      change(flags, {
        change: 'weight',
        upstream,
        server,
        ...(weight !== 'file' && { weight: weightOf(weight) }),
      }),
    )
  changing(servers, 'add', 'add a server that the configuration file lacks')
    .option('--weight <weight>', 'share of the requests, relative to the other servers; default: 1')
    .option('--backup', 'requests only while no other server is usable')
  changing(servers, 'remove', 'remove a server that was added at run time')
}

function changing(servers: Command, kind: ServerRequest['change'], about: string): Command {
  return addAskOptions(servers.command(kind))
    .description(about)
    .argument('<upstream>', 'name of the upstream')
    .argument('<server>', 'address of the server, as in the configuration file')
    .examples(`fd-broker servers ${kind} --control /run/edge/upgrade.sock app http://10.0.0.1:8080`)
    .action((upstream: string, server: string, { weight, backup, ...flags }: ChangeFlags) =>
      change(flags, {
        change: kind,
        upstream,
        server,
        ...(weight !== undefined && { weight: weightOf(weight) }),
        ...(backup !== undefined && { backup }),
      }),
    )
}

function weightOf(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new FdbError(
    'ERR_FDB_OPTION',
    `${JSON.stringify(text)} is no weight: give a number from 1 to 1000, or file`,
  )
}

/** All changes are idempotent: a repeated one reports `unchanged`. */
async function ask<T>(flags: AnswerFlags, command: string, request: object): Promise<T> {
  const asked = commandService(flags, IDEMPOTENT_RETRY_CODES, command, JSON.stringify(request))
  const answer = await ofServiceWith('this service is not a proxy and has no servers: name the proxy', asked)
  return JSON.parse(answer.toString()) as T
}

async function change(flags: AnswerFlags, request: ServerRequest): Promise<void> {
  const reply = await ask<ServerReply>(flags, SERVER_COMMANDS.change, request)
  const { upstream, outcome, used } = reply
  const left = used === 0 ? `no server of ${upstream} gets requests now\n` : `${used} in use in ${upstream}\n`
  print(flags.json, reply, `${outcome}, ${left}`)
}

async function list(flags: AnswerFlags): Promise<void> {
  const { servers } = await ask<ServerList>(flags, SERVER_COMMANDS.list, {})
  print(flags.json, servers, () => listText(servers))
}

function listText(servers: readonly ListedServer[]): string {
  if (servers.length === 0) return 'no servers\n'
  const rows = servers.map(each => [
    each.upstream,
    each.server,
    each.origin,
    each.weight,
    each.state,
    noteOf(each),
  ])
  return `${table(['UPSTREAM', 'SERVER', 'ORIGIN', 'WEIGHT', 'STATE', 'NOTE'], rows).join('\n')}\n`
}

function noteOf({ backup, check, changed, state, triedInSeconds }: ListedServer): string {
  const notes: string[] = []
  if (backup) notes.push('backup')
  if (triedInSeconds !== null) notes.push(`tried in ${formatDuration(triedInSeconds)}`)
  if (check?.up === false) notes.push(check.reason)
  else if (check !== null && check.count > 0) notes.push(`${check.count} checks failed`)
  if (changed !== null && state !== 'unused') notes.push('changed at run time')
  return notes.join('; ')
}
