import type { Conversion } from '../../src/convert/convert.js'
import { RequestReader } from '../../src/http1/index.js'
import { configFrom, type ProxyDocument } from '../../src/proxy/index.js'
import { RouteTable } from '../../src/proxy/routes/table.js'
import type { RouteTarget } from '../../src/proxy/routes/target.js'

export interface Request {
  readonly host?: string
  readonly method?: string
  readonly fields?: readonly string[]
  readonly client?: string
}

/** Returns a function that tells the status or the upstream that the converted configuration has for a request; `none` without a route. */
export function answersOf({ document }: Conversion): (path: string, request?: Request) => number | string {
  const table = new RouteTable<RouteTarget>()
  const config = configFrom(JSON.parse(JSON.stringify(document)) as ProxyDocument)
  for (const { host, path, target } of config.routes) table.put({ origin: 'file', host, path }, target)
  const { name } = config.listeners[0]!
  return (path, { host = 'a', method = 'GET', fields = [], client = '192.0.2.1' } = {}) => {
    const lines = [`${method} ${path} HTTP/1.1`, `Host: ${host}`, ...fields]
    const bytes = Buffer.from(`${lines.join('\r\n')}\r\n\r\n`)
    const head = new RequestReader().read(bytes, 0, bytes.length)!
    const found = table.lookup(host, path, name, head, client)
    if (typeof found === 'symbol') return 'none'
    return found.kind === 'upstream' ? found.upstream : found.status
  }
}
