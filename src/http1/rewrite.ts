import { type Edit, type FieldEdits, fieldLine, NO_EDITS } from './field-edits.js'
import { FieldId, HOP_BY_HOP } from './field-names.js'
import type { Fields } from './fields.js'
import { HeadWriter } from './head-writer.js'
import type { RequestHead } from './request-head.js'
import type { ResponseHead } from './response-head.js'

/** Changes of a head. All other lines keep their bytes and order. */
export interface RewriteOptions {
  edits?: FieldEdits | undefined
  /** Lines to append, each made by {@link fieldLine}. */
  extra?: string | Uint8Array | undefined
  /** The value of the new Connection field; default: no such field. `upgrade` also forwards Upgrade. */
  connection?: 'close' | 'keep-alive' | 'upgrade' | undefined
  /** Forwards Proxy-Authenticate and Proxy-Authorization, for a server that is a proxy itself. By default these hop-by-hop fields are dropped. */
  proxyAuthentication?: boolean | undefined
}

export interface RequestRewriteOptions extends RewriteOptions {
  /** Replaces Host and moves it to the first line. Required for an HTTP/1.0 request without a host. */
  host?: string | undefined
  /** Replaces path and query. */
  resource?: string | undefined
  /** Fields to drop, because {@link extra} has lines instead. */
  without?: readonly FieldId[] | undefined
}

export interface ResponseRewriteOptions extends RewriteOptions {
  /**
   * How the body reaches the client. `keep` (default): unchanged. `close`: without framing, for a tunnel or for a chunked body to HTTP/1.0;
   * Content-Length, Transfer-Encoding and Trailer are dropped. `chunked`: in the relay's own chunks.
   */
  body?: 'keep' | 'close' | 'chunked' | undefined
}

/** Options of Connection that are no field names, or name a field that is dropped in any case. */
const NO_FIELDS = new Set(['close', 'keep-alive', 'upgrade', 'te'])

const UPGRADE_REQUIRED = 426
const CHUNKED = 'Transfer-Encoding: chunked\r\n'
const NO_EDIT: readonly Edit[] = []

// Tables by field id. 1: the field is dropped.
const HOP_BY_HOP_AND_BODY = dropTable(FieldId.contentLength, FieldId.transferEncoding, FieldId.trailer)
const HOP_BY_HOP_AND_HOST = dropTable(FieldId.host)
/** The relay forwards HTTP/1.0 requests as HTTP/1.1, but drops Expect, so that the server sends no 100 Continue, which the client would not understand. */
const OF_HTTP10 = dropTable(FieldId.expect)
const OF_HTTP10_AND_HOST = dropTable(FieldId.expect, FieldId.host)

const PROXY_AUTHENTICATION = [FieldId.proxyAuthenticate, FieldId.proxyAuthorization]

/** Returns `drop` itself if the options change nothing, otherwise a changed copy. */
function adjustDrops(
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

function dropTable(...ids: FieldId[]): Uint8Array {
  const drop = Uint8Array.from(HOP_BY_HOP)
  for (const id of ids) drop[id] = 1
  return drop
}

/** Writes all heads, one after the other, until {@link keepHead} replaces this writer. */
let OUT = HeadWriter.acquire()

/** Returns the head that was written last. This head stays valid until the caller releases it. */
export function keepHead(): HeadWriter {
  const kept = OUT
  OUT = HeadWriter.acquire()
  return kept
}

/**
 * Writes the head for the server, always as HTTP/1.1. The target is in origin form; for CONNECT it stays, and becomes Host too. The result is valid
 * until the next head is written, unless {@link keepHead} keeps it.
 */
export function writeRequest(head: RequestHead, options: RequestRewriteOptions = {}): HeadWriter {
  const { fields, line, form, minor } = head
  const { bytes, base } = fields
  const { resource } = options
  const host = form === 'authority' ? head.target : (options.host ?? missingHost(head))
  let drop = minor === 1 ? HOP_BY_HOP : OF_HTTP10
  let run = line.start
  OUT.reset()
  if (form !== 'origin' || minor === 0 || host !== undefined || resource !== undefined) {
    OUT.slice(bytes, base + line.start, base + line.methodEnd + 1)
    OUT.text(form === 'authority' ? head.target : (resource ?? head.resource))
    OUT.text(' HTTP/1.1\r\n')
    run = fields.start
  }
  if (host !== undefined) {
    OUT.text(fieldLine('Host', host))
    drop = minor === 1 ? HOP_BY_HOP_AND_HOST : OF_HTTP10_AND_HOST
  }
  drop = adjustDrops(drop, options.proxyAuthentication, options.without)
  writeFields(fields, run, drop, head.connection, options.edits)
  writeEnding(head.upgrade, options)
  return OUT
}

/** Returns the Host for an HTTP/1.0 request that has an absolute target and no Host. */
function missingHost({ minor, fields, authority }: RequestHead): string | undefined {
  if (minor === 1 || authority === undefined || fields.indexOf(FieldId.host) >= 0) return undefined
  return authority.port === undefined ? authority.host : `${authority.host}:${authority.port}`
}

/** Writes the head for the client, always as HTTP/1.1. The result is valid until the next head is written. */
export function writeResponse(head: ResponseHead, options: ResponseRewriteOptions = {}): HeadWriter {
  const { fields, line, status, odd } = head
  const body = status < 200 || status === 204 ? 'close' : (options.body ?? 'keep')
  const keep = body === 'keep' && !odd
  let run = 0
  OUT.reset()
  if (head.minor === 0 || line.end < line.reasonStart) {
    OUT.text(`HTTP/1.1 ${status} ${head.reason}\r\n`)
    run = fields.start
  }
  const drop = adjustDrops(keep ? HOP_BY_HOP : HOP_BY_HOP_AND_BODY, options.proxyAuthentication)
  writeFields(fields, run, drop, head.connection, options.edits)
  if (body === 'chunked') OUT.text(CHUNKED)
  else if (body === 'keep' && odd) OUT.text(cleanFraming(head))
  if (status === UPGRADE_REQUIRED) writeUpgradeRequired(head, options)
  else writeEnding(head.upgrade, options)
  return OUT
}

/** Returns correct framing fields for an odd response (see {@link HeadFacts.odd}). */
function cleanFraming({ status, chunked, contentLength }: ResponseHead): string {
  if (chunked) return status === 304 ? '' : CHUNKED
  return contentLength === undefined ? '' : `Content-Length: ${contentLength}\r\n`
}

/** Writes the end of a 426, which must name the protocols to upgrade to (RFC 9110, 15.5.22). */
function writeUpgradeRequired(head: ResponseHead, options: RewriteOptions): void {
  const upgrade = head.fields.get('upgrade')
  if (upgrade === undefined) {
    writeEnding(undefined, options)
    return
  }
  const also = options.connection === undefined ? '' : `, ${options.connection}`
  if (options.extra !== undefined) OUT.text(options.extra)
  OUT.text(`Connection: upgrade${also}\r\nUpgrade: ${upgrade}\r\n\r\n`)
}

function writeEnding(upgrade: string | undefined, { extra, connection }: RewriteOptions): void {
  if (extra !== undefined) OUT.text(extra)
  if (connection === 'upgrade') {
    if (upgrade !== undefined) OUT.text(`Connection: upgrade\r\nUpgrade: ${upgrade}\r\n`)
  } else if (connection !== undefined) OUT.text(`Connection: ${connection}\r\n`)
  OUT.text('\r\n')
}

/** Writes the lines from offset `run` on, with the edits. Drops the fields in the table `drop`, and those that Connection names. */
function writeFields(
  fields: Fields,
  run: number,
  drop: Uint8Array,
  connection: readonly string[],
  edits: FieldEdits = NO_EDITS,
): void {
  const { bytes, base, count } = fields
  const named = connection.length === 0 ? null : namedFields(connection)
  let placed: Edit[] | null = null
  for (let i = 0; i < count; i++) {
    const start = fields.lineStart(i)
    let edit: Edit | undefined
    if (drop[fields.id(i)] === 0) {
      edit = edits.find(bytes, base + start, base + fields.nameEnd(i))
      if (edit === undefined && (named === null || !named.has(fields.name(i).toLowerCase()))) continue
    }
    if (start > run) OUT.slice(bytes, base + run, base + start)
    if (edit !== undefined && edit.line !== '' && !placed?.includes(edit)) {
      OUT.text(edit.line)
      placed = [...(placed ?? []), edit]
    }
    run = fields.lineEnd(i)
  }
  if (fields.end > run) OUT.slice(bytes, base + run, base + fields.end)
  OUT.text(edits.unplacedLines(placed ?? NO_EDIT))
}

/** Returns null if Connection names no further fields. */
function namedFields(connection: readonly string[]): ReadonlySet<string> | null {
  return connection.every(option => NO_FIELDS.has(option))
    ? null
    : new Set(connection.filter(option => !NO_FIELDS.has(option)))
}
