/** The commands that `fd-broker routes` sends to a running proxy. Lists are JSON lines, processed in slices. */
import { isMap } from '../../checks/place.js'
import { FdbError, type Member, runInSlices } from '../../index.js'
import type { ListedRoute, LiveRoutes } from './live-routes.js'
import type { AddOptions } from './runtime.js'

export const ROUTE_COMMANDS = { add: 'routes.add', remove: 'routes.remove', list: 'routes.list' } as const

const MAX_NAMED = 100
const STEP = 32
const PAGE_BYTES = 4 * 1024 * 1024

/** The first line of `routes.add`. Each further line is a route. */
export interface AddRequest {
  replace?: boolean
}

export interface AddReply {
  added: number
  replaced: number
  unchanged: number
  /** The first routes of the file that the new routes override, at most 100. */
  shadows: string[]
  shadowed: number
}

export interface RemoveReply {
  removed: number
  /** The first routes of the file that apply again, at most 100. */
  uncovers: string[]
  uncovered: number
}

export interface ListRequest {
  /** How many entries to skip: `next` of the previous page. */
  from?: number
}

/** The first line of the reply. Each further line is a route. */
export interface ListReply {
  total: number
  /** Pages with the same digest belong to the same list of routes. */
  digest: string
  /** `from` of the next page, or null after the last page. */
  next: number | null
}

export function serveRouteCommands(
  member: Member,
  routes: LiveRoutes,
  known: () => Pick<AddOptions, 'upstreams' | 'listeners'>,
): void {
  member
    .command(ROUTE_COMMANDS.add, async (body, { signal }) => {
      const lines = await runInSlices(readLines(body))
      const [options, given] = [lines[0], lines.slice(1)]
      const { replace = false } = isMap(options) ? (options as AddRequest) : {}
      const result = await routes.add(given, { ...known(), replace: replace === true }, signal)
      const { added, replaced, unchanged, shadows } = result
      const reply: AddReply = {
        added,
        replaced,
        unchanged,
        shadows: shadows.slice(0, MAX_NAMED),
        shadowed: shadows.length,
      }
      return JSON.stringify(reply)
    })
    .command(ROUTE_COMMANDS.remove, async (body, { signal }) => {
      const lines = await runInSlices(readLines(body))
      const { removed, uncovers } = await routes.remove(lines.slice(1), signal)
      const reply: RemoveReply = {
        removed,
        uncovers: uncovers.slice(0, MAX_NAMED),
        uncovered: uncovers.length,
      }
      return JSON.stringify(reply)
    })
    .command(ROUTE_COMMANDS.list, async body => {
      const [request] = await runInSlices(readLines(body))
      const { from = 0 } = isMap(request) ? (request as ListRequest) : {}
      return await runInSlices(page(routes, Number(from)))
    })
}

function* readLines(body: Buffer): Generator<void, unknown[]> {
  const values: unknown[] = []
  let steps = 0
  for (let start = 0; start < body.length; ) {
    if (++steps % STEP === 0) yield
    const newline = body.indexOf(0x0a, start)
    const end = newline < 0 ? body.length : newline
    if (end > start) values.push(parse(body.toString('utf8', start, end), values.length))
    start = end + 1
  }
  return values
}

function parse(line: string, index: number): unknown {
  try {
    return JSON.parse(line)
  } catch (error) {
    throw new FdbError(
      'ERR_FDB_ROUTES',
      `line ${index + 1} of the request is not valid JSON: ${line.slice(0, 80)}`,
      { cause: error },
    )
  }
}

/** Builds one page of the list. Yields where it may pause, also while it skips earlier pages. */
export function* page(
  routes: Pick<LiveRoutes, 'digest' | 'size' | 'keys' | 'describe'>,
  from: number,
): Generator<void, Buffer> {
  const { digest, size: total } = routes
  const lines: Buffer[] = []
  let bytes = 0
  let index = 0
  let next: number | null = null
  for (const key of routes.keys()) {
    if (++index % STEP === 0) yield
    if (index <= from) continue
    if (bytes >= PAGE_BYTES) {
      next = index - 1
      break
    }
    const route = routes.describe(key)
    if (route === null) continue
    const line = Buffer.from(`${JSON.stringify(route satisfies ListedRoute)}\n`)
    lines.push(line)
    bytes += line.length
  }
  const head: ListReply = { total, digest, next }
  return Buffer.concat([Buffer.from(`${JSON.stringify(head)}\n`), ...lines])
}
