import { resolve } from 'node:path'
import type { Draft } from './draft.js'
import type { Directive } from './nginx-syntax.js'
import { FRAMING } from './values.js'

/** Directives that the proxy needs no counterpart for, and why. */
export const OWN = reasons({
  'the proxy does it always': `
    proxy_http_version proxy_request_buffering proxy_buffering proxy_pass_request_headers
    proxy_pass_header proxy_pass_request_body proxy_next_upstream proxy_socket_keepalive tcp_nodelay
    tcp_nopush reset_timedout_connection absolute_redirect port_in_redirect server_name_in_redirect
    merge_slashes underscores_in_headers proxy_intercept_errors lingering_close
  `,
  'the proxy has no such buffers, caches or threads': `
    proxy_buffers proxy_buffer_size proxy_busy_buffers_size proxy_max_temp_file_size proxy_temp_path
    fastcgi_temp_path uwsgi_temp_path scgi_temp_path proxy_headers_hash_max_size
    proxy_headers_hash_bucket_size client_body_buffer_size client_body_temp_path
    client_header_buffer_size output_buffers postpone_output sendfile sendfile_max_chunk aio directio
    open_file_cache open_file_cache_valid open_file_cache_min_uses open_file_cache_errors
    server_names_hash_bucket_size server_names_hash_max_size types_hash_max_size types_hash_bucket_size
    variables_hash_max_size variables_hash_bucket_size map_hash_bucket_size zone accept_mutex
    multi_accept use worker_connections worker_cpu_affinity pcre_jit keepalive_requests
    keepalive_disable lingering_time lingering_timeout upstream_conf proxy_responses proxy_requests
  `,
  'the unit of the service manager says it': `
    user pid daemon master_process worker_rlimit_nofile worker_priority worker_shutdown_timeout
    load_module lock_file env
  `,
  'the proxy serves no files': `
    default_type types charset charset_types index autoindex etag if_modified_since log_not_found
    log_subrequest gzip_static
  `,
  'Node chooses ciphers, sessions and curves': `
    ssl_ciphers ssl_prefer_server_ciphers ssl_session_cache ssl_session_timeout ssl_session_tickets
    ssl_ecdh_curve ssl_dhparam ssl_buffer_size ssl_conf_command proxy_ssl_protocols proxy_ssl_ciphers
    proxy_ssl_session_reuse proxy_ssl_verify_depth ssl_verify_depth
  `,
  'the proxy does not say its name, and writes its log to stderr': 'server_tokens error_log rewrite_log',
})

/** Features that the proxy has not, and what to use instead. */
export const WITHOUT = reasons({
  'the proxy does not compress: let the server do it': `
    gzip gzip_types gzip_vary gzip_proxied gzip_comp_level gzip_min_length gzip_buffers
    gzip_http_version gzip_disable gunzip brotli brotli_types brotli_comp_level
  `,
  'the proxy serves no files: give them a server': 'root alias try_files',
  'the proxy does not change bodies': 'sub_filter sub_filter_once sub_filter_types',
  'let the server say how long its answers may be kept': 'expires',
  'errorPages is for all errors of the proxy itself': 'error_page',
  'no request may be sent before the handshake is over': 'ssl_early_data',
  'the proxy has no cache': `
    proxy_cache proxy_cache_path proxy_cache_valid proxy_cache_key proxy_cache_bypass proxy_no_cache
    proxy_cache_use_stale proxy_cache_lock proxy_cache_methods proxy_cache_revalidate
    proxy_cache_background_update proxy_ignore_headers
  `,
  'the proxy speaks HTTP only': 'fastcgi_pass uwsgi_pass scgi_pass grpc_pass memcached_pass',
  'the proxy does not staple': 'ssl_stapling ssl_stapling_verify ssl_trusted_certificate resolver_timeout',
})

/** The reason for each name: the names are separated by spaces. */
function reasons(names: Readonly<Record<string, string>>): ReadonlyMap<string, string> {
  return new Map(Object.entries(names).flatMap(([why, all]) => wordsOf(all).map(name => [name, why])))
}

function wordsOf(text: string): string[] {
  return text.trim().split(/\s+/)
}

/** Directives with a counterpart, which nothing uses where they have got no remark. */
export const HANDLED: ReadonlySet<string> = new Set(
  wordsOf(`
    proxy_set_header proxy_hide_header proxy_connect_timeout proxy_read_timeout proxy_send_timeout
    proxy_redirect proxy_ssl_verify proxy_ssl_name proxy_ssl_server_name proxy_ssl_trusted_certificate
    proxy_ssl_certificate proxy_ssl_certificate_key add_header auth_request_set upstream limit_req_zone
    log_format ssl_certificate ssl_certificate_key
  `),
)

/** Whether the proxy itself says a header of requests. */
export const isSaid = (name: string) =>
  FRAMING.test(name) || /^(?:host|x-forwarded-(?:for|proto|host))$/i.test(name)

/** The directives of a level and of those around it, the innermost first. */
export type Levels = readonly (readonly Directive[])[]

/** The directives of this name at the innermost level that has any. */
export function effective(levels: Levels, name: string): readonly Directive[] {
  for (const level of levels) {
    const all = namedIn(level).get(name)
    if (all !== undefined) return all
  }
  return []
}

/** The level of all servers is asked for each of them. */
const named = new WeakMap<readonly Directive[], ReadonlyMap<string, readonly Directive[]>>()

function namedIn(level: readonly Directive[]): ReadonlyMap<string, readonly Directive[]> {
  const known = named.get(level)
  if (known !== undefined) return known
  const made = new Map<string, Directive[]>()
  for (const each of level) {
    const others = made.get(each.name)
    if (others === undefined) made.set(each.name, [each])
    else others.push(each)
  }
  named.set(level, made)
  return made
}

export function effectiveOne(levels: Levels, name: string): Directive | undefined {
  return effective(levels, name).at(-1)
}

/** Whether nginx reads headers with `_` in their names, as those with `-`. */
export function takesUnderscores(levels: Levels): boolean {
  const is = (name: string, value: string) => effectiveOne(levels, name)?.args[0] === value
  return is('underscores_in_headers', 'on') || is('ignore_invalid_headers', 'off')
}

const SAME = /^(?:host|request_uri|remote_addr|remote_user|scheme|request_method)$/
const ALIKE: Readonly<Record<string, string>> = {
  http_host: 'host',
  uri: 'request_uri',
  document_uri: 'request_uri',
}

/** The value with variables as the proxy names them; null if it has none for one of them. `near`: a variable differs a little. */
export function withVariables(
  text: string,
  fixed: Readonly<Record<string, string>> = {},
): { value: string; near: boolean } | null {
  let near = false
  let unknown = false
  const value = text.replace(
    /\$(?:\{(\w+)\}|(\w+))/g,
    (_, braced: string | undefined, bare: string | undefined) => {
      const name = braced ?? bare!
      if (fixed[name] !== undefined) return fixed[name]
      if (SAME.test(name)) return `$${name}`
      const other = ALIKE[name]
      if (other === undefined) unknown = true
      else near = true
      return `$${other}`
    },
  )
  return unknown ? null : { value, near }
}

/** The key by which requests are told apart, as the proxy says it: `address`, `cookie:NAME` or `header:NAME`; null for another variable. */
export function keyOf(variable: string): string | null {
  if (/^\$(?:binary_)?remote_addr$/.test(variable)) return 'address'
  const [, kind, of] = /^\$(cookie|http)_(\w+)$/.exec(variable) ?? []
  if (kind === undefined) return null
  return kind === 'cookie' ? `cookie:${of}` : `header:${of!.replaceAll('_', '-')}`
}

/** Features that are off unless one of these directives says otherwise. */
const SWITCHES: readonly (readonly [RegExp, readonly string[], string])[] = [
  [/^(?:gzip|gunzip|brotli)/, ['gzip', 'gunzip', 'brotli'], 'nothing is compressed'],
  [/^proxy_(?:cache|no_cache)/, ['proxy_cache'], 'nothing is cached'],
  [/^ssl_stapling/, ['ssl_stapling'], 'nothing is stapled'],
]

/** Finds out why a directive changes nothing, as its feature is off everywhere; null if it is not. */
export function withoutEffect(top: readonly Directive[]): (directive: Directive) => string | null {
  const on = new Set<string>()
  const visit = (all: readonly Directive[]) => {
    for (const { name, args, block } of all) {
      if (args[0] !== 'off') on.add(name)
      if (block !== null) visit(block)
    }
  }
  visit(top)
  return ({ name }) => {
    const [, names, why] = SWITCHES.find(([pattern]) => pattern.test(name)) ?? []
    return names === undefined || names.some(each => on.has(each)) ? null : why!
  }
}

/** Directives that switch off a feature that the proxy always has. */
const WHERE_OFF: ReadonlyMap<string, string> = new Map([
  ['proxy_pass_request_headers', 'the headers of clients are passed on'],
  ['proxy_pass_request_body', 'bodies are passed on'],
  ['merge_slashes', 'slashes in a row count as one'],
  ['underscores_in_headers', 'headers with _ are passed on, except those that the route changes'],
])

/** Marks a directive for which there is no rule of its own. `off`: why it changes nothing. */
export function otherDirective(
  draft: Draft,
  directive: Directive,
  off: string | null,
  lost: string | null,
): void {
  const own = OWN.get(directive.name)
  const without = WITHOUT.get(directive.name)
  const other = directive.args[0] === 'off' ? WHERE_OFF.get(directive.name) : undefined
  if (other !== undefined) draft.missing(directive, other)
  else if (own !== undefined) draft.own(directive, own)
  else if (off !== null) draft.own(directive, off)
  else if (without !== undefined && directive.args[0] === 'off') draft.own(directive, 'it is off')
  else draft.missing(directive, without ?? lost ?? 'no counterpart')
}

/** A path relative to the folder of the configuration. */
export function fileOf({ folder, args }: Directive): string {
  return resolve(folder, args[0]!)
}
