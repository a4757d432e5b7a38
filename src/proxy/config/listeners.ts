import {
  absent,
  boolean,
  type Check,
  map,
  name,
  optional,
  refine,
  required,
  shown,
  text,
  unique,
  Wrong,
} from '../../config/check.js'
import { FdbError, type ListenerSpec, parseListenerSpec } from '../../index.js'
import { noUpstream } from '../routes/rule.js'
import type { ListenerConfig } from './config.js'

function listenerAddress(given: string): ListenerSpec | Wrong {
  try {
    const spec = parseListenerSpec(given)
    return spec.kind === 'udp'
      ? new Wrong(`${shown(given)} is a UDP address; the proxy listens on tcp:// and unix:`)
      : spec
  } catch (error) {
    if (!FdbError.is(error)) throw error
    return new Wrong(
      `${shown(given)} is no listener address: ${error.message.replace(/^.*? has a wrong /s, 'wrong ')}`,
    )
  }
}

export const listenerShape = {
  name: required(text('a name', name), 'name by which the next version finds the listener'),
  address: required(
    text('a listener address', listenerAddress),
    '`tcp://127.0.0.1:8080`, `tcp://[::1]:80`, `tcp://*:80`, `unix:/run/app.sock?mode=0660`',
  ),
  forward: absent(
    text('the name of an upstream', name => name),
    undefined,
    'not HTTP: each connection is passed to a server of this upstream',
  ),
  tls: optional(boolean, false, 'whether clients speak TLS, with the certificates under `tls`'),
  halfClose: optional(
    boolean,
    false,
    'whether a client that ends its direction still gets its answers; otherwise it counts as gone',
  ),
}
export const listeners = (upstreamNames: ReadonlySet<string>) => (): Check<ListenerConfig> => {
  const listener = refine(map(listenerShape), (given, place): ListenerConfig | undefined => {
    const { name, address: spec, forward = null, tls, halfClose } = given
    if (forward !== null && halfClose)
      return place
        .at('halfClose')
        .wrong('whole connections may always be ended one side at a time; leave it out')
    if (forward === null || upstreamNames.has(forward)) return { name, spec, forward, tls, halfClose }
    return place.at('forward').wrong(noUpstream(forward, upstreamNames))
  })
  const names = unique(listener, 'the name', each => each.name, 'name')()
  return unique(names, 'the address', ({ spec }) => endpoint(spec), 'address')()
}

/** Each port 0 is another port. */
let anyPort = 0
function endpoint(spec: ListenerSpec): string {
  if (spec.kind === 'unix') return `unix:${spec.abstract ? '@' : ''}${spec.path}`
  return spec.port === 0 ? `any ${++anyPort}` : `tcp://${spec.host}:${spec.port}`
}
