import { durationMs, LONGEST_MS } from '../duration.js'
import { FdbError } from '../errors.js'

/** How it is known that a version is ready. */
export type Readiness =
  /** It says READY=1 on its NOTIFY_SOCKET. */
  | { readonly kind: 'notify' }
  /** It writes a line to the descriptor whose number FD_BROKER_READY_FD has. */
  | { readonly kind: 'fd' }
  /** It answers a GET with 2xx or 3xx; `url` begins with `/`: through a listener that it alone has. */
  | { readonly kind: 'http'; readonly url: string }
  /** It takes a connection. */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  /** `sh -c` of it ends with 0. */
  | { readonly kind: 'command'; readonly text: string }
  /** It has lived for so long, milliseconds. */
  | { readonly kind: 'delay'; readonly ms: number }
  /** It speaks fd-broker, and its status says that it serves. */
  | { readonly kind: 'handoff'; readonly control: string }

export const READINESS =
  'notify, fd, http:URL, http:/PATH, tcp:HOST:PORT, command:TEXT, delay:DURATION or handoff:CONTROL'

/** Throws ERR_FDB_OPTION. */
export function parseReadiness(text: string): Readiness {
  const colon = text.indexOf(':')
  const kind = colon < 0 ? text : text.slice(0, colon)
  const rest = colon < 0 ? '' : text.slice(colon + 1)
  const read = READERS[kind]?.(rest)
  if (read) return read
  throw new FdbError('ERR_FDB_OPTION', `ready is "${text}"; give ${READINESS}`, {
    details: { option: 'ready' },
  })
}

const READERS: Readonly<Record<string, (rest: string) => Readiness | null>> = {
  notify: rest => (rest === '' ? { kind: 'notify' } : null),
  fd: rest => (rest === '' ? { kind: 'fd' } : null),
  http: readHttp,
  tcp: readTcp,
  command: text => (text.trim() === '' ? null : { kind: 'command', text }),
  delay: rest => {
    const ms = durationMs(rest)
    return ms === null || ms > LONGEST_MS ? null : { kind: 'delay', ms }
  },
  handoff: control => (control === '' ? null : { kind: 'handoff', control }),
}

/** `http:/health`, `http:http://127.0.0.1/health`, and the same as one: `http://127.0.0.1/health`. */
function readHttp(rest: string): Readiness | null {
  if (rest.startsWith('/') && !rest.startsWith('//')) return { kind: 'http', url: rest }
  const url = rest.startsWith('//') ? `http:${rest}` : rest
  return URL.canParse(url) && new URL(url).protocol === 'http:' ? { kind: 'http', url } : null
}

function readTcp(rest: string): Readiness | null {
  const address = rest.startsWith('//') ? rest.slice(2) : rest
  const [, v6, plain, digits] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(address) ?? []
  const port = Number(digits)
  const host = v6 ?? plain
  return host === undefined || !(port > 0 && port < 65_536) ? null : { kind: 'tcp', host, port }
}
