import { readFile } from 'node:fs/promises'
import { text as readAll } from 'node:stream/consumers'
import { jsonValue } from '../base/json.js'
import { isMap } from '../checks/place.js'
import { ConfigDocument } from '../config/document.js'
import { FdbError } from '../errors.js'
import type { CommandAsk, OperatorClient } from '../operator/client.js'
import { type AddReply, type ListReply, type RemoveReply, ROUTE_COMMANDS } from '../proxy/routes/commands.js'
import type { ListedRoute } from '../proxy/routes/live-routes.js'
import {
  type AnswerFlags,
  askService,
  commandService,
  IDEMPOTENT_RETRY_CODES,
  ofServiceWith,
  RETRY_CODES,
} from './ask-service.js'
import type { Command } from './command.js'
import { addAskOptions } from './find-service.js'
import { namesText, print, table } from './output.js'
import { addStoreRoutes } from './store-routes.js'

/** Number of attempts to list the routes: an attempt fails if the routes change between two of its pages. */
const LIST_TRIES = 5

interface RouteFlags extends AnswerFlags {
  file?: string
  host?: string
  path?: string
  when?: string[]
  listener?: string
}

interface AddRouteFlags extends RouteFlags {
  upstream?: string
  connect?: true
  replace?: true
}

export function addRoutes(program: Command): void {
  const routes = program
    .command('routes')
    .description('show and change the routes of a running proxy; changes survive upgrades')
  addAskOptions(routes.command('list'))
    .description('show all routes')
    .examples('fd-broker routes list --control /run/edge/upgrade.sock --json')
    .action(list)
  addRouteOptions(addAskOptions(routes.command('add')))
    .description('add a route, or all routes of a file (all or none)')
    .option('--upstream <name>', 'upstream of the route')
    .option('--connect', 'also pass on CONNECT requests')
    .option('--replace', 'replace existing routes made at run time')
    .notes(
      `A file is a list as under "routes" of the configuration (YAML or JSON), or JSON lines; - is standard input.`,
    )
    .examples(
      'fd-broker routes add --control /run/edge/upgrade.sock --host app.example.com --upstream app',
      'fd-broker routes add --control /run/edge/upgrade.sock --file more.jsonl --replace',
    )
    .action(add)
  addRouteOptions(addAskOptions(routes.command('remove')))
    .description('remove a route that was made at run time, or all routes of a file (all or none)')
    .examples('fd-broker routes remove --control /run/edge/upgrade.sock --host app.example.com --path /old')
    .action(remove)
  addStoreRoutes(routes, readRoutes)
}

function addRouteOptions(command: Command): Command {
  return command
    .option('--file <file>', 'use the routes in this file')
    .option('--host <host>', 'host of the route')
    .option('--path <prefix>', 'path of the route; default: /')
    .option('--when <condition...>', 'conditions of the route: method=POST header:x-version=2')
    .option('--listener <name>', 'listener of the route; default: all')
}

function ofProxy<T>(answer: Promise<T>): Promise<T> {
  return ofServiceWith('this service is not a proxy and has no routes: name the proxy', answer)
}

async function list(flags: AnswerFlags): Promise<void> {
  const { service = '' } = flags
  const routes = await ofProxy(
    askService(flags, IDEMPOTENT_RETRY_CODES, (client, timeout) => listAll(client, { timeout, service })),
  )
  print(flags.json, routes, () => listText(routes))
}

async function add({
  file,
  host,
  path,
  when,
  listener,
  upstream,
  connect,
  replace,
  ...flags
}: AddRouteFlags): Promise<void> {
  const route = { host, path, when, listener, upstream, connect }
  const routes = await routesFrom(
    file,
    route,
    host !== undefined && upstream !== undefined,
    '--host and --upstream',
  )
  const body = lines([{ replace: replace ?? false }, ...routes])
  const answer = await ofProxy(commandService(flags, IDEMPOTENT_RETRY_CODES, ROUTE_COMMANDS.add, body))
  const reply = JSON.parse(answer.toString()) as AddReply
  print(flags.json, reply, addText(reply))
}

async function remove({ file, host, path, when, listener, ...flags }: RouteFlags): Promise<void> {
  const routes = await routesFrom(file, { host, path, when, listener }, host !== undefined, '--host')
  const places = routes.map(route => {
    if (typeof route !== 'object' || route === null || Array.isArray(route)) return route
    // Other keys are ignored, so the file that added the routes can also remove them.
    const { host, path, when, listener } = route as RouteFlags
    return { host, path, when, listener }
  })
  const body = lines([{}, ...places])
  const answer = await ofProxy(commandService(flags, RETRY_CODES, ROUTE_COMMANDS.remove, body))
  const reply = JSON.parse(answer.toString()) as RemoveReply
  const again = nameList('the file’s are used again', reply.uncovers, reply.uncovered)
  print(flags.json, reply, `${reply.removed} removed\n${again}`)
}

async function routesFrom(
  file: string | undefined,
  route: Readonly<Record<string, unknown>>,
  complete: boolean,
  needed: string,
): Promise<unknown[]> {
  if (file === undefined ? !complete : route.host !== undefined)
    throw new FdbError('ERR_FDB_OPTION', `which routes? Give ${needed}, or --file`)
  return file === undefined ? [route] : await readRoutes(file)
}

function lines(values: readonly unknown[]): string {
  return values.map(value => `${JSON.stringify(value ?? null)}\n`).join('')
}

async function listAll(client: OperatorClient, ask: CommandAsk): Promise<ListedRoute[]> {
  for (let tries = LIST_TRIES; ; tries--) {
    const routes: ListedRoute[] = []
    let first: string | undefined
    let from: number | null = 0
    while (from !== null) {
      const reply = await client.command(ROUTE_COMMANDS.list, lines([{ from }]), ask)
      const [head, ...page] = reply
        .toString()
        .trimEnd()
        .split('\n')
        .map(line => JSON.parse(line) as unknown)
      const { digest, next } = head as ListReply
      first ??= digest
      if (digest !== first) break
      routes.push(...(page as ListedRoute[]))
      from = next
    }
    if (from === null) return routes
    if (tries > 1) continue
    throw new FdbError(
      'ERR_FDB_BUSY',
      `the routes changed during each of ${LIST_TRIES} attempts to list them: try again`,
      {
        retryable: true,
      },
    )
  }
}

/** Names that are printed before "and N more". */
const SHOWN = 10

function listText(routes: readonly ListedRoute[]): string {
  if (routes.length === 0) return 'no routes\n'
  const sorted = routes.toSorted(
    (a, b) => compare(a.host, b.host) || compare(pathText(a), pathText(b)) || compare(a.origin, b.origin),
  )
  const rows = sorted.map(route => [
    route.listener ? `${route.listener}@${route.host}` : route.host,
    pathText(route),
    route.shadowed ? `${route.origin} (not used)` : route.origin,
    targetText(route.target),
    route.generation,
  ])
  return `${table(['HOST', 'PATH', 'ORIGIN', 'TARGET', 'GENERATION'], rows).join('\n')}\n`
}

function addText({ added, replaced, unchanged, shadows, shadowed }: AddReply): string {
  const counts = [`${added} added`]
  if (replaced > 0) counts.push(`${replaced} replaced`)
  if (unchanged > 0) counts.push(`${unchanged} exist already`)
  return `${counts.join(', ')}\n${nameList('used instead of routes of the file', shadows, shadowed)}`
}

function nameList(what: string, names: readonly string[], count: number): string {
  return count === 0 ? '' : `${what}: ${namesText(names, SHOWN, count)}\n`
}

/** A service of an earlier release has no `when`. */
function pathText({ path, when }: ListedRoute): string {
  return [path, ...(when ?? [])].join(' ')
}

function targetText(target: ListedRoute['target']): string {
  if (target === null) return 'not served by this version'
  if (target.kind === 'respond') return `respond ${target.status}`
  return target.connect ? `${target.upstream} (CONNECT too)` : target.upstream
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}

/**
 * Reads routes without checking them, which the proxy does: a YAML or JSON list, a map with the list under `routes`, or JSON lines. `-` is
 * standard input. Rejects with ERR_FDB_ROUTES.
 */
async function readRoutes(file: string): Promise<unknown[]> {
  const name = file === '-' ? 'standard input' : file
  let text: string
  try {
    text = file === '-' ? await readAll(process.stdin) : await readFile(file, 'utf8')
  } catch (cause) {
    throw new FdbError('ERR_FDB_ROUTES', `${name} cannot be read (${(cause as Error).message})`, { cause })
  }
  const given = json(text) ?? jsonLines(text) ?? yaml(text, name)
  const list = isMap(given) && 'routes' in given ? given.routes : given
  if (Array.isArray(list)) return list
  throw new FdbError('ERR_FDB_ROUTES', `${name} is not a list of routes: give a list, or JSON lines`)
}

function json(text: string): unknown {
  if (!/^\s*[[{]/.test(text)) return undefined
  const value = jsonValue(text)
  // The file is a single JSON line.
  return isMap(value) && !('routes' in value) ? [value] : value
}

function jsonLines(text: string): unknown[] | undefined {
  if (!/^\s*\{.*\}[ \t\r]*(\n|$)/.test(text)) return undefined
  try {
    return text
      .split('\n')
      .filter(line => line.trim() !== '')
      .map(line => JSON.parse(line) as unknown)
  } catch {
    return undefined
  }
}

function yaml(text: string, name: string): unknown {
  const document = new ConfigDocument(text)
  const [problem] = document.syntax
  if (problem === undefined) return document.value
  throw new FdbError('ERR_FDB_ROUTES', `${name}:${problem.line}:${problem.column}: ${problem.message}`)
}
