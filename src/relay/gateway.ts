import { FieldId, listElements, type RequestHead, type ResponseHead } from '../http1/index.js'
import type { Decision } from './decision.js'
import type { ViaLines } from './field-rules.js'

export interface GatewayOptions {
  /** This relay's name in Via; null: no Via. All processes of one service must use the same name, and no other service may use it. */
  via: string | null
  /** Forwards TRACE; otherwise the client gets 405. */
  trace: boolean
}

export const ALLOW: readonly [string, string] = ['Allow', 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS']

/** Fields that the response to TRACE must not repeat (RFC 9110, 9.3.8). */
const SECRET = new Set(['authorization', 'proxy-authorization', 'cookie'])

/** Follows the rules of RFC 9110 for proxies: adds Via and detects loops (7.6.3), obeys Max-Forwards (7.6.2), adds Date (6.6.1). */
export class Gateway {
  readonly #via: string | null
  /** `viaLines[minor]` is the Via line for a message of HTTP/1.minor. */
  readonly viaLines: ViaLines
  readonly #viaBytes: readonly Buffer[]
  readonly #trace: boolean
  #date = ''
  #second = -1

  constructor({ via, trace }: GatewayOptions) {
    this.#via = via
    const line = (version: string): string => (via === null ? '' : `Via: ${version} ${via}\r\n`)
    this.viaLines = [line('1.0'), line('1.1'), line('2.0')]
    this.#viaBytes = this.viaLines.map(line => Buffer.from(line, 'latin1'))
    this.#trace = trace
  }

  /** Returns the decision about a request that the gateway answers itself; null for a request that the router decides about. */
  respondLocally(head: RequestHead): Decision | null {
    if (this.#isLoop(head)) return { kind: 'refuse', status: 508, reason: 'loop' }
    const { method } = head
    if (method !== 'TRACE' && method !== 'OPTIONS') return null
    if (method === 'TRACE' && !this.#trace)
      return { kind: 'refuse', status: 405, reason: 'trace-not-allowed', headers: [ALLOW] }
    const left = maxForwards(head)
    if (left === null) return null
    if (Number.isNaN(left)) return { kind: 'refuse', status: 400, reason: 'max-forwards-invalid' }
    if (left > 0) return null
    if (method === 'OPTIONS') return { kind: 'respond', status: 200, headers: [ALLOW] }
    return {
      kind: 'respond',
      status: 200,
      headers: [['Content-Type', 'message/http']],
      body: echoRequest(head),
    }
  }

  mustDecrementMaxForwards({ method, fields }: RequestHead): boolean {
    return fields.hasAny(1 << FieldId.maxForwards) && (method === 'TRACE' || method === 'OPTIONS')
  }

  responseLines({ minor, status, fields }: ResponseHead): Buffer | string {
    if (status < 200 || fields.hasAny(1 << FieldId.date)) return this.#viaBytes[minor]!
    return `${this.viaLines[minor]}Date: ${this.#now()}\r\n`
  }

  #isLoop({ fields }: RequestHead): boolean {
    if (this.#via === null) return false
    const passed = fields.hasAny(1 << FieldId.via) ? fields.get('via') : undefined
    return (
      passed !== undefined &&
      listElements(passed).some(element => element.split(/[ \t]+/, 2)[1] === this.#via)
    )
  }

  #now(): string {
    const second = Math.floor(Date.now() / 1000)
    if (second !== this.#second) {
      this.#second = second
      this.#date = new Date(second * 1000).toUTCString()
    }
    return this.#date
  }
}

/** Returns the number in Max-Forwards; null if the field is missing, NaN if it is invalid. */
export function maxForwards({ fields }: RequestHead): number | null {
  const line = fields.indexOf(FieldId.maxForwards)
  if (line < 0) return null
  const value = fields.value(line)
  return /^[0-9]{1,9}$/.test(value) && fields.indexOf(FieldId.maxForwards, line + 1) < 0
    ? Number(value)
    : Number.NaN
}

function echoRequest({ method, target, minor, fields }: RequestHead): Buffer {
  let text = `${method} ${target} HTTP/1.${minor}\r\n`
  for (const [name, value] of fields) if (!SECRET.has(name.toLowerCase())) text += `${name}: ${value}\r\n`
  return Buffer.from(`${text}\r\n`, 'latin1')
}
