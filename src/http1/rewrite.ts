import { type FieldEdits, fieldLine, NO_EDITS } from './field-edits.js'
import { FieldId, HOP_BY_HOP } from './field-names.js'
import type { Fields } from './fields.js'
import type { RequestHead } from './request-head.js'
import type { ResponseHead } from './response-head.js'

/** All heads are latin1 strings: write them with that encoding. Lines that are passed on keep their bytes and order. */
export interface RewriteOptions {
  edits?: FieldEdits
  /** Further lines, each made by {@link fieldLine}, behind all others. */
  extra?: string
  /** What this connection's Connection field says; left out: nothing. `upgrade` passes the peer's Upgrade on. */
  connection?: 'close' | 'keep-alive' | 'upgrade'
  /** Also passes on how client and server, which is a proxy too, authenticate to each other: fields of one connection otherwise. */
  proxyAuthentication?: boolean
}

export interface RequestRewriteOptions extends RewriteOptions {
  /** Takes the place of path and query, not of CONNECT's target: must not be made of unchecked bytes. */
  resource?: string
  /** Takes the place of Host, as the first line; needed where HTTP/1.0 names no host at all. */
  host?: string
  /** Fields that {@link RewriteOptions.extra} says anew. */
  without?: readonly FieldId[]
}

export interface ResponseRewriteOptions extends RewriteOptions {
  /**
   * `keep`: the body follows as it comes. `close`: without Content-Length, Transfer-Encoding and Trailer, the body
   * ends with the connection (HTTP/1.0 clients of a chunked body; a tunnel). `chunked`: the body is sent in chunks.
   */
  body?: 'keep' | 'close' | 'chunked'
}

/** Options of Connection that name no field, or one that is dropped anyway. */
const NO_FIELDS = new Set(['close', 'keep-alive', 'upgrade', 'te'])

const UPGRADE_REQUIRED = 426
const CHUNKED = 'Transfer-Encoding: chunked\r\n'
const NONE: ReadonlySet<string> = new Set()

/** By field id: 1 for what is dropped. */
const HOP_BY_HOP_AND_BODY = dropping(FieldId.contentLength, FieldId.transferEncoding, FieldId.trailer)
const HOP_BY_HOP_AND_HOST = dropping(FieldId.host)
/** HTTP/1.0 knows no 100-continue: passed on in a head of HTTP/1.1 it would be answered by one. */
const OF_HTTP10 = dropping(FieldId.expect)
const OF_HTTP10_AND_HOST = dropping(FieldId.expect, FieldId.host)

const PROXY_AUTHENTICATION = [FieldId.proxyAuthenticate, FieldId.proxyAuthorization]

/** `drop` itself mostly. */
function adjusted(
  drop: Uint8Array,
  proxyAuthentication = false,
  without: readonly FieldId[] = [],
): Uint8Array {
  if (!proxyAuthentication && without.length === 0) return drop
  const own = Uint8Array.from(drop)
  if (proxyAuthentication) for (const id of PROXY_AUTHENTICATION) own[id] = 0
  for (const id of without) own[id] = 1
  return own
}

function dropping(...ids: FieldId[]): Uint8Array {
  const drop = Uint8Array.from(HOP_BY_HOP)
  for (const id of ids) drop[id] = 1
  return drop
}

/** The head to send to the next server, always as HTTP/1.1, in origin form; CONNECT with its target as Host. */
export function rewriteRequest(head: RequestHead, options: RequestRewriteOptions = {}): string {
  const connect = head.form === 'authority'
  const host = connect ? head.target : (options.host ?? missingHost(head))
  let text = `${head.method} ${connect ? head.target : (options.resource ?? head.resource)} HTTP/1.1\r\n`
  let drop = head.minor === 1 ? HOP_BY_HOP : OF_HTTP10
  if (host !== undefined) {
    text += fieldLine('Host', host)
    drop = head.minor === 1 ? HOP_BY_HOP_AND_HOST : OF_HTTP10_AND_HOST
  }
  drop = adjusted(drop, options.proxyAuthentication, options.without)
  return (
    text + rewriteFields(head.fields, drop, head.connection, options.edits) + ending(head.upgrade, options)
  )
}

/** The Host that HTTP/1.0 may leave to an absolute target. */
function missingHost({ minor, fields, authority }: RequestHead): string | undefined {
  if (minor === 1 || authority === undefined || fields.indexOf(FieldId.host) >= 0) return undefined
  return authority.port === undefined ? authority.host : `${authority.host}:${authority.port}`
}

/** The head to send to the client, always as HTTP/1.1. */
export function rewriteResponse(head: ResponseHead, options: ResponseRewriteOptions = {}): string {
  const body = head.status < 200 || head.status === 204 ? 'close' : (options.body ?? 'keep')
  const fields = rewriteFields(
    head.fields,
    adjusted(body === 'keep' && !head.odd ? HOP_BY_HOP : HOP_BY_HOP_AND_BODY, options.proxyAuthentication),
    head.connection,
    options.edits,
  )
  const framing = body === 'chunked' ? CHUNKED : body === 'keep' && head.odd ? cleanFraming(head) : ''
  const end = head.status === UPGRADE_REQUIRED ? requiring(head, options) : ending(head.upgrade, options)
  return `HTTP/1.1 ${head.status} ${head.reason}\r\n${fields}${framing}${end}`
}

/** What an odd answer says about its end, said once and rightly. */
function cleanFraming({ status, chunked, contentLength }: ResponseHead): string {
  if (chunked) return status === 304 ? '' : CHUNKED
  return contentLength === undefined ? '' : `Content-Length: ${contentLength}\r\n`
}

/** It must say to what (RFC 9110, 15.5.22). */
function requiring(head: ResponseHead, options: RewriteOptions): string {
  const upgrade = head.fields.get('upgrade')
  if (upgrade === undefined) return ending(undefined, options)
  const also = options.connection === undefined ? '' : `, ${options.connection}`
  return `${options.extra ?? ''}Connection: upgrade${also}\r\nUpgrade: ${upgrade}\r\n\r\n`
}

function ending(upgrade: string | undefined, options: RewriteOptions): string {
  const extra = options.extra ?? ''
  if (options.connection === undefined) return `${extra}\r\n`
  if (options.connection !== 'upgrade') return `${extra}Connection: ${options.connection}\r\n\r\n`
  return upgrade === undefined ? `${extra}\r\n` : `${extra}Connection: upgrade\r\nUpgrade: ${upgrade}\r\n\r\n`
}

/** The lines without those of `drop` (by field id) and those that Connection names, after the edits. */
function rewriteFields(
  fields: Fields,
  drop: Uint8Array,
  connection: readonly string[],
  edits: FieldEdits = NO_EDITS,
): string {
  const { text, count } = fields
  const named = connection.length === 0 ? NONE : new Set(connection.filter(option => !NO_FIELDS.has(option)))
  const placed: number[] = []
  let out = ''
  let run = count > 0 ? fields.lineStart(0) : fields.end
  for (let i = 0; i < count; i++) {
    let line = ''
    if (drop[fields.id(i)] === 0) {
      const concerned = edits.mayConcern(fields.nameLength(i))
      if (!concerned && named.size === 0) continue
      const name = fields.name(i).toLowerCase()
      const edit = concerned ? edits.of(name) : undefined
      if (edit === undefined && !named.has(name)) continue
      if (edit !== undefined && !placed.includes(edit.index)) {
        placed.push(edit.index)
        line = edit.line
      }
    }
    out += text.slice(run, fields.lineStart(i)) + line
    run = fields.lineEnd(i)
  }
  out += text.slice(run, fields.end)
  return edits === NO_EDITS ? out : out + edits.rest(placed)
}
