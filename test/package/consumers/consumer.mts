// A program that embeds the package, under the strictest rules of the compiler.
import http from 'node:http'
import type { Socket } from 'node:net'
import {
  codec,
  defineSection,
  FdbError,
  type FdbErrorCode,
  type HandoffRecord,
  join,
  type Listener,
  type Logger,
  type Member,
  REMOVE,
  type Section,
  type StatusReport,
  shareTicketKeys,
} from 'fd-broker'
import { type ConnectionKeeper, OwnedFd } from 'fd-broker/adapter'
import { FdbError as SameError } from 'fd-broker/errors'
import { OperatorClient } from 'fd-broker/operator'
import { type ProxyConfig, parseConfig, type ReverseProxy, startProxy } from 'fd-broker/proxy'

interface Route {
  to: string
}

const logger: Logger = {
  debug: () => {},
  info: () => {},
  warn: () => {},
  error: (facts, message) => console.error(message, facts),
}

export async function serve(control: string): Promise<Member> {
  await using member = await join({ service: 'shop', control, logger, drain: { timeout: 1000 } })
  const routes: Section<Route> = member.section(
    'routes',
    defineSection<Route>({ version: 1, codec: codec.json() }),
  )
  routes.onChange(change => {
    const now: Route | undefined = change.value
    if (change.op === 'put') void routes.put(`copy of ${change.key}`, change.value)
    void routes.bulk([change, { key: 'last', delete: true }])
    return now
  })
  const raw: Section<Uint8Array> = member.section('raw', defineSection({ version: 1, codec: codec.bytes() }))
  const web: Listener = await member.listen('web', 'tcp://127.0.0.1:0')
  const server = http.createServer((_, response) => response.end(routes.get('/')?.to))
  web.serve(server, { http: { serialize: (_: Socket) => undefined } })
  shareTicketKeys(member, (await import('node:https')).createServer())
  member
    .whileServing(() => () => {})
    .on('retired', why => console.log(why satisfies 'replaced' | 'closed' | 'lost'))
  await member.ready({ checks: [() => routes.size > 0] })
  const was: string | undefined = await member.update(state => {
    const route = state.get(routes, '/')
    state.put(raw, 'copy', Buffer.from(route?.to ?? ''))
    return route?.to
  })
  await routes.update('/', route => (route === undefined ? REMOVE : { to: `${was}${route.to}` }))
  const last: HandoffRecord | undefined = member.status().handoffs.at(-1)
  const code: FdbErrorCode | undefined = last?.failure?.code
  if (code === 'ERR_FDB_DEADLINE') console.log(member.phase, web.address.port)
  return member
}

export async function ask(control: string): Promise<StatusReport | undefined> {
  using client = await OperatorClient.connect(control)
  try {
    const answer = await client.status()
    return 'sections' in answer ? (answer as StatusReport) : undefined
  } catch (error) {
    if (FdbError.is(error)) console.log(error.code, error.retryable)
    return undefined
  }
}

/** Entries share their classes. */
export const same: typeof FdbError = SameError
export async function hold(member: Member, fd: number): Promise<void> {
  await member.hold('file', OwnedFd.own(fd, 'file'))
}
export const idle: ConnectionKeeper = {
  connections: 0,
  announce: () => {},
  emptied: async () => {},
  cut: () => ({ idle: 0, busy: 0 }),
}

export async function edge(text: string): Promise<ReverseProxy> {
  const config: ProxyConfig = parseConfig(text, 'edge.yaml')
  const proxy = await startProxy(config, { logger })
  await hold(proxy.member, 3)
  return proxy
}

// @ts-expect-error there is no such option
export const misspelt = join({ service: 'shop', control: false, drian: {} })
