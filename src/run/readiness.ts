import { durationMs, LONGEST_MS } from '../base/duration.js'
import { FdbError } from '../errors.js'
import { ASKED, type Asked } from '../probing/asked.js'

/** How it is known that a version is ready. */
export type Readiness =
  /** It says READY=1 on its NOTIFY_SOCKET. */
  | { readonly kind: 'notify' }
  /** It writes a line to the descriptor whose number FD_BROKER_READY_FD has. */
  | { readonly kind: 'fd' }
  | Asked
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
  ...ASKED,
  delay: rest => {
    const ms = durationMs(rest)
    return ms === null || ms > LONGEST_MS ? null : { kind: 'delay', ms }
  },
  handoff: control => (control === '' ? null : { kind: 'handoff', control }),
}
