/** Statements that the proxy needs no counterpart for, by their first words, and why. */
export const OWN: readonly (readonly [RegExp, string])[] = [
  [
    /^(?:user|group|chroot|daemon|pidfile|ulimit-n|uid|gid|set-dumpable|master-worker|mworker|localpeer|node|description|unix-bind|cpu-map|setenv|presetenv|insecure-fork-wanted|expose-experimental-directives)\b/,
    'the unit of the service manager says it',
  ],
  [
    /^(?:tune\.|nosplice|noepoll|spread-checks|maxcompcpuusage|maxconnrate|maxsslconn|maxsslrate|maxpipes|hard-stop-after|grace|fullconn|retry-on|backlog|hash-type|max-keep-alive-queue|http-reuse|load-server-state|server-state|bind-process|busy-polling|numa)/,
    'the proxy needs no such setting',
  ],
  [
    /^ssl-(?:default|dh|engine|server-verify|mode)/,
    'Node chooses ciphers and curves; tls.minVersion is TLSv1.2',
  ],
  [
    /^option (?:forwardfor|http-keep-alive|http-server-close|httpclose|forceclose|redispatch|dontlognull|tcp-smart|socket-stats|tcpka|clitcpka|srvtcpka|abortonclose|splice|nolinger|http-use-htx|http-buffer-request|http-no-delay|log-health-checks|log-separate-errors|logasap|contstats|prefer-last-server|http-ignore-probes|http-pretend-keepalive|allbackups|transparent|accept-invalid|persist|http-restrict)/,
    'the proxy does so, or needs no such option',
  ],
  [/^no option /, 'it is off'],
  [
    /^(?:log|log-format|log-tag|log-send-hostname|unique-id|capture|http-request capture|http-request set-log|declare capture)/,
    'accessLog writes JSON lines with the fields of accessLine',
  ],
  [
    /^(?:retries|http-errors|default-server$|resolve|hold|accepted_payload_size|parse-resolv-conf)/,
    'the proxy does so',
  ],
  [/^(?:stats|monitor-net|email-alert|http-request use-service)/, 'fd-broker status and top, and metrics'],
  [/^(?:peer|table)\b/, 'what clients have used is part of the state'],
  [/^maxconn$/, ''],
]

/** Features that the proxy has not, and what to use instead. */
export const WITHOUT: readonly (readonly [RegExp, string])[] = [
  [/^(?:compression|filter)/, 'the proxy does not compress: let the server do it'],
  [/^(?:errorfile|errorloc)/, 'errorPages needs the path of a file'],
  [/^option dontlog-normal/, 'the log has all requests'],
  [
    /^(?:lua|http-request lua|http-request set-var|http-response set-var|tcp-request content)/,
    'there are no programs and no variables',
  ],
  [/^(?:cache|http-request cache)/, 'the proxy has no cache'],
]

/** A value with the samples that the proxy knows; null if it has none for one of them. */
export function sampleText(text: string): string | null {
  let unknown = false
  const value = text.replaceAll('$', '$$$$').replace(/%\[([^\]]*)\]/g, (_, sample: string) => {
    const known = SAMPLES.find(([pattern]) => pattern.test(sample))?.[1]
    if (known === undefined) unknown = true
    return known ?? ''
  })
  return unknown || /%[\w{]/.test(value) ? null : value
}

const SAMPLES: readonly (readonly [RegExp, string])[] = [
  [/^src$/, '$remote_addr'],
  [/^(?:req\.|capture\.req\.)?hdr\(host\)(?:,lower|,field\(1,:\))*$/i, '$host'],
  [/^(?:pathq|capture\.req\.uri|url)$/, '$request_uri'],
  [/^(?:method|capture\.req\.method)$/, '$request_method'],
]
