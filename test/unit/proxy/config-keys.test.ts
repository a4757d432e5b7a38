import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import type { Shape } from '../../../src/checks/shape.js'
import { configShape } from '../../../src/proxy/config/schema.js'
import { CERTIFICATE, KEY } from '../../e2e/relay-certificate.js'
import { EXPIRED } from '../../fixtures/expired-certificate.js'
import { LEAST, problems } from '../../fixtures/proxy-config.js'

const folder = mkdtempSync(join(tmpdir(), 'fdb-config-'))
afterAll(() => rmSync(folder, { recursive: true }))
function file(name: string, text: string): string {
  const path = join(folder, name)
  writeFileSync(path, text)
  return JSON.stringify(path)
}
const CERT_FILE = file('right.crt', CERTIFICATE)
const KEY_FILE = file('right.key', KEY)
const OTHER_KEY = file('other.key', EXPIRED.key)
const LOCKED = file(
  'locked.key',
  '-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----',
)
const NOTHING = file('nothing.pem', 'nothing\n')

/** Every key of the file, a wrong value for it (as it is written), and what the message must say. */
const WRONG: [key: string, value: string, message: RegExp][] = [
  ['service', '""', /not a service name/],
  ['service', 'two words', /not a service name/],
  ['service', '8080', /8080 is a number, not a name; put it in quotes, "8080"/],
  ['control', 'upgrade.sock', /not an absolute path/],
  ['control', `/${'x'.repeat(106)}`, /107 bytes, a control socket's at most 106/],
  ['control', '/tmp', /"\/tmp" is a folder; write the path of a socket/],
  ['stateFile', '/tmp', /"\/tmp" is a folder; write the path of a file/],
  ['stateFile.path', '/dev/null', /"\/dev\/null" is no regular file; write the path of a file/],
  ['stateFile', 'state', /no absolute path of a file/],
  ['stateFile.path', '/var/lib/', /no absolute path of a file/],
  ['stateFile.sync', '5', /5 has no unit/],
  ['stateFile.damaged', 'ignore', /none of "refuse", "prefix"/],
  ['workers', '0', /0 is not an integer from 1 to 256|1 to 256/],
  ['workers.count', 'many', /"many" is no whole number from 1 to 256, nor "auto"$/],
  ['workers.replace', 'slowly', /none of "one-by-one", "at-once"/],
  ['workers.stopTimeout', 'never', /"never" is not a duration/],
  ['workers.hungTimeout', '1s', /"1s" is not a duration from 2000ms/],
  ['instanceHeader', '"X Gen"', /not a header name/],
  ['instanceHeader', 'Content-Length', /set by the proxy itself/],
  ...['Date', 'set-cookie', 'Location', 'ETag', 'Content-Type', 'Access-Control-Allow-Origin'].map(
    (name): [string, string, RegExp] => [
      'instanceHeader',
      name,
      /has a meaning for clients and caches; choose another/,
    ],
  ),
  ['listeners', '[]', /the list is empty; give at least 1/],
  ['listeners', '{ http: "tcp://*:80" }', /is a map, not a list/],
  ['listeners[0].name', '""', /no name/],
  ['listeners[0].name', '"a b"', /no name \(1 to 64/],
  ['listeners[0].address', '"unix:/tmp"', /"\/tmp" is a folder; write the path of a socket/],
  ['listeners[0].address', '"tcp://localhost:80"', /not a listener address: invalid host: .*127\.0\.0\.1/],
  ['listeners[0].address', '"tcp://127.0.0.1:99999"', /not a listener address: invalid port/],
  ['listeners[0].address', '"udp://127.0.0.1:80"', /add "forward"/],
  ['listeners[0].idle', '5s', /only for udp:\/\/ listeners/],
  ['listeners[0].forward', 'appp', /there is no upstream "appp"/],
  ['listeners[0].clientCa', NOTHING, /nothing\.pem": there is no certificate in PEM/],
  ['listeners[0].clientCa.file', '"ca.crt"', /no absolute path of a file/],
  ['listeners[0].clientCa.required', 'maybe', /neither true nor false/],
  ['listeners[0].clientCa.revoked', CERT_FILE, /is a string, not a list/],
  ['listeners[0].acme', 'app', /"tls: true"/],
  ['listeners[0].halfClose', 'on', /neither true nor false/],
  ['listeners[0].http2', 'on', /neither true nor false/],
  ['listeners[0].http2WebSockets', 'on', /neither true nor false/],
  ['listeners[0].tls', 'on', /neither true nor false/],
  ['listeners[0].tls', 'true', /TLS needs a certificate: give one under "tls.certificates"/],
  ['upstreams', '[]', /is a list, not a map of names to values/],
  ['upstreams["a b"]', '{ servers: ["http://a:1"] }', /"a b" is no name/],
  ['upstreams.a', '"http://a:1"', /not a map; its keys are: servers/],
  ['upstreams.a.servers', '[]', /give at least 1/],
  [
    'upstreams.a.servers[0]',
    '"htp://x"',
    /not an upstream address \(http:\/\/HOST:PORT, https:\/\/HOST:PORT, tcp:\/\/HOST:PORT, tls:\/\/HOST:PORT, udp:\/\/HOST:PORT or unix:\/path\)$/,
  ],
  ['upstreams.a.servers[0]', '"http://x"', /the port is missing/],
  ['upstreams.a.servers[0]', '"http://x:70000"', /70000 is not a port/],
  ['upstreams.a.servers[0]', '"http://x:0"', /0 is not a port/],
  ['upstreams.a.servers[0]', '"http://x:80/api"', /leave "\/api" out/],
  ['upstreams.a.servers[0]', '"http://me@x:80"', /leave user and password out/],
  ['upstreams.a.servers[0]', '"http://x_!:80"', /"x_!" is not a host/],
  [
    'upstreams.a.servers[0]',
    '"http://[::1%lo]:80"',
    /"::1%lo" has a zone, "%lo"; give an address without one/,
  ],
  ['upstreams.a.servers[0]', '"http://1.2.3:80"', /"1\.2\.3" is not a host/],
  ['upstreams.a.servers[0]', '"http://[::zz]:80"', /not an IPv6 address/],
  ['upstreams.a.servers[0]', '"tcp://x"', /the port is missing/],
  ['upstreams.a.servers[0]', '"https://x"', /the port is missing/],
  ['upstreams.a.servers[0]', '"unix:app.sock"', /must be absolute/],
  ['upstreams.a.servers[0]', `"unix:/${'x'.repeat(107)}"`, /108 bytes/],
  ['upstreams.a.servers[0]', '7', /is a number, not an upstream address/],
  ['upstreams.a.servers[0]', '{ weight: 2 }', /address/],
  ['upstreams.a.servers[0].address', 'x', /not an upstream address/],
  ['upstreams.a.servers[0].weight', '0', /no whole number from 1 to 1000/],
  ['upstreams.a.servers[0].backup', '1', /1 is neither true nor false/],
  ['upstreams.a.servers', '["http://x:1", "tcp://x:2"]', /http:\/\/ and tcp:\/\/ do not go together/],
  ['upstreams.a.servers', '["udp://x:1", "tcp://x:2"]', /do not go together/],
  ['upstreams.a.servers', '["https://x:1", "tls://x:2"]', /nor do https:\/\/ and tls:\/\//],
  ['listeners[0].proxyProtocol', 'on', /is text, not a list|not a list/],
  ['upstreams.a.proxyProtocol', 'v3', /"v3" is none of "v1", "v2"/],
  ['upstreams.a.queue', '5', /valid only with a limit of "connections"/],
  ['upstreams.a.queue.requests', '0', /no whole number from 1 to 1000000/],
  ['upstreams.a.queue.timeout', '10', /10 has no unit/],
  ['upstreams.a.sticky', '"a b"', /"a b" is not the name of a cookie/],
  ['upstreams.a.sticky.cookie', '""', /"" is not the name of a cookie/],
  ['upstreams.a.sticky.maxAge', '10', /10 has no unit/],
  ['upstreams.a.sticky.secure', 'always', /neither true nor false/],
  ['upstreams.a.tls', '{ verify: true }', /no server uses TLS: write https:\/\/ or tls:\/\//],
  ['upstreams.a.tls.ca', '/none/ca.pem', /"\/none\/ca\.pem" cannot be read \(ENOENT\)/],
  ['upstreams.a.tls.ca', NOTHING, /there is no certificate in PEM/],
  ['upstreams.a.tls', `{ cert: ${CERT_FILE} }`, /give both "cert" and "key", or neither/],
  [
    'upstreams.a.tls',
    `{ cert: ${CERT_FILE}, key: ${OTHER_KEY} }`,
    /OpenSSL refuses the certificates or the key \(.*key values mismatch/,
  ],
  ['upstreams.a.tls.cert', 'edge.crt', /no absolute path of a file/],
  ['upstreams.a.tls.key', 'edge.key', /no absolute path of a file/],
  ['upstreams.a.tls.verify', 'never', /neither true nor false/],
  ['upstreams.a.tls.name', '"*.test"', /"\*\.test" is not the name of a server/],
  ['upstreams.a.health', 'on', /not a map/],
  ['upstreams.a.health.failures', '0', /no whole number from 1 to 1000/],
  ['upstreams.a.health.errors', '0', /no whole number from 1 to 1000/],
  ['upstreams.a.health.coolDown', '10', /10 has no unit; write 10s or 10ms/],
  ['upstreams.a.balance', 'fair', /"fair" is no way to balance; write round-robin, random, /],
  ['upstreams.a.balance', '"hash:cookie:a b"', /no way to balance/],
  ['upstreams.a.check', 'soon', /"soon" is not a check; write http:\/health, tcp or a map/],
  ['upstreams.a.check', '7', /is a number, not a map/],
  ['upstreams.a.check', 'http:health', /"health" is not the path of a request \(\/health\)/],
  [
    'upstreams.a.check',
    'http://127.0.0.1:9001/health',
    /"\/\/127\.0\.0\.1:9001\/health" names a host, .*: write the path alone \(\/health\), and another port as "port: 9001"/,
  ],
  ['upstreams.a.check.http', '"/a b"', /"\/a b" is not the path of a request/],
  ['upstreams.a.check.http', '//a/health', /names a host, but each server is asked/],
  ['upstreams.a.check.status', '600', /no whole number from 100 to 599/],
  ['upstreams.a.check.status', '200', /valid only with "http: \/PATH"/],
  ['upstreams.a.check.host', '"a b.com"', /not a host \(app\.example\.com\)/],
  ['upstreams.a.check.port', '70000', /no whole number from 1 to 65535/],
  ['upstreams.a.check.interval', '1ms', /from 10ms/],
  ['upstreams.a.check.timeout', '0s', /from 1ms/],
  ['upstreams.a.check.rise', '0', /no whole number from 1 to 1000/],
  ['upstreams.a.check.fall', '1001', /no whole number from 1 to 1000/],
  ['upstreams.a.keepAlive', '4s', /not a map/],
  ['upstreams.a.keepAlive.connections', '-1', /no whole number/],
  ['upstreams.a.keepAlive.idle', 'forever', /not a duration .*: 500ms, 30s, 2m, 1h/],
  ['upstreams.a.keepAlive.age', '5', /5 has no unit/],
  ['upstreams.a.connections', '0', /no whole number from 1/],
  ['upstreams.a.retry', '1.5', /no whole number from 0 to 10/],
  ['upstreams.a.slowStart', '5', /5 has no unit/],
  ['upstreams.a.slowStart', '30s', /valid only with "check"/],
  ['upstreams.a.resend', '20%', /no whole number from 0 to 100/],
  ['upstreams.a.timeouts', '[1s]', /not a map/],
  ['upstreams.a.timeouts.connect', '0s', /from 1ms/],
  ['upstreams.a.timeouts.response', '1d', /not a duration/],
  ['routes', '{}', /is a map, not a list/],
  ['routes[0]', 'null', /not a map \(nothing follows the colon\)/],
  ['routes[0].listener', 'htp', /there is no listener "htp" for requests \(did you mean "http"\?\)/],
  [
    'routes[0].respond.headers.X-A',
    '"https://$hots/"',
    /"\$hots" is no variable \(did you mean "\$host"\?\); the variables are \$host, /,
  ],
  ['routes[0].request.set.X-A', '"5$"', /no variable follows a \$; .*; write \$\$ for a dollar sign/],
  ['routes[0].host', '"a.com:80"', /leave the port out/],
  ['routes[0].host', '"a..com"', /is not a label/],
  ['routes[0].host', '"*.*.com"', /a \* stands alone or as the whole first label/],
  ['routes[0].host', '"http://a.com/"', /write only the name/],
  ['routes[0].path', 'api', /must begin with \//],
  ['routes[0].path', '/a?b=1', /only the path is compared/],
  ['routes[0].path', '"/a/**"', /a prefix by itself, write it without \*\*/],
  ['routes[0].path', '"/a/*.js"', /a \* stands for a whole segment; write %2A for the character/],
  ['routes[0].path', '"/*/*/*/*/*/*/*/*/*"', /it has more than 8 segments \*/],
  ['routes[0].path', '/a/../b', /must not contain NUL, or \. and \.\. as segments/],
  ['routes[0].upstream', 'nowhere', /there is no upstream "nowhere"/],
  ['routes[0].respond', '204', /not a map; its keys are: status/],
  ['routes[0].respond.status', '99', /no whole number from 200 to 599/],
  ['routes[0].respond.status', '"200"', /no whole number/],
  ['routes[0].respond.body', '12', /12 is a number, not a string; put it in quotes/],
  ['routes[0].respond.body', `"${'x'.repeat(65_537)}"`, /65537 bytes, at most 65536/],
  ['routes[0].respond.body', '"\\ud800"', /half a surrogate pair/],
  ['routes[0].respond.headers', '[a]', /not a map of names/],
  ['routes[0].respond.headers["a b"]', 'x', /not a header name/],
  ['routes[0].respond.headers.Connection', 'close', /set by the proxy itself/],
  ['routes[0].respond.headers.Date', 'now', /set by the proxy itself/],
  ['routes[0].respond.headers.X-A', '"a\\r\\nSet-Cookie: b"', /not a header value/],
  ['routes[0].when', 'method=GET', /is a string, not a list; write \["method=GET"\]/],
  ['routes[0].when', '[]', /the list is empty; give at least 1/],
  ['routes[0].when[0]', 'a', /"a" is no condition: write method=GET\|HEAD, header:NAME/],
  ['routes[0].when[0]', '"method=GET,HEAD"', /is no condition: write methods, such as method=GET\|HEAD/],
  ['routes[0].when[0]', '"header:a b"', /"a b" is no name of a header/],
  ['routes[0].when[0]', '"query:a=*"', /for any value write query:a/],
  ['routes[0].when[0]', '"cookie:a=*b"', /a value has 1 to 256 .* and a \* only at its end/],
  ['routes[0].when', '["header:a", "header:A=b"]', /two conditions are about "header:a"; give one/],
  ['routes[0].when', '["!header:a", "!header:A"]', /two conditions are about "header:a"; give one/],
  [
    'routes[0].when',
    '["!listener=htp"]',
    /there is no listener "htp" for requests \(did you mean "http"\?\)/,
  ],
  [
    'routes[0].when[0]',
    '"listener=http"',
    /for one listener give "listener"; .* excludes listeners: !listener=/,
  ],
  ['routes[0].when[0]', '"!listener"', /write names, such as !listener=admin\|metrics/],
  ['routes[0].connect', 'yes', /"yes" is neither true nor false/],
  ['routes[0].basicAuth', 'on', /not a map; its keys are: realm, users/],
  ['routes[0].basicAuth.realm', "'a\"b'", /no realm: write visible ASCII without quotes/],
  ['routes[0].basicAuth.users', '{}', /there is no user; give at least one/],
  ['routes[0].basicAuth.users.bob', 'secret', /this is no SHA-256 of a password/],
  ['routes[0].forwardAuth', 'on', /not a map; its keys are: upstream, path/],
  ['routes[0].forwardAuth.upstream', 'nowhere', /there is no upstream "nowhere"/],
  ['routes[0].forwardAuth.path', 'verify', /not the path of a request/],
  ['routes[0].forwardAuth.timeout', '0s', /from 1ms/],
  ['routes[0].forwardAuth.requestHeaders', '[a, A]', /the header "A" is given twice/],
  ['routes[0].forwardAuth.responseHeaders', '[a-b, A_B]', /the header "A_B" is given twice/],
  ['routes[0].cors', 'on', /not a map; its keys are: origins, methods/],
  ['routes[0].cors.origins', '[]', /the list is empty; give at least 1/],
  ['routes[0].cors.origins[0]', '"https://a.test/"', /no origin: write https:\/\/app\.example\.com, or "\*"/],
  ['routes[0].cors.origins[0]', 'a.test', /no origin/],
  ['routes[0].cors.methods', 'GET', /not a list; write \["GET"\]/],
  ['routes[0].cors.headers', 'x', /not a list/],
  ['routes[0].cors.expose', 'x', /not a list/],
  ['routes[0].cors.credentials', 'on', /neither true nor false/],
  ['routes[0].cors.maxAge', '5', /5 has no unit/],
  ['routes[0].rateLimit', '10', /not a map; its keys are: requests, per/],
  ['routes[0].rateLimit.requests', '0', /0 is no whole number from 1 to 1000000/],
  ['routes[0].rateLimit.per', '5', /5 has no unit/],
  ['routes[0].rateLimit.burst', '0', /0 is no whole number from 1 to 1000000/],
  [
    'routes[0].rateLimit.by',
    'ip',
    /"ip" is nothing to count by; write address, all, header:NAME or cookie:NAME/,
  ],
  ['routes[0].rateLimit.name', "'a/b'", /"a\/b" is no name/],
  ['routes[0].accessLog', 'off', /"off" is neither true nor false/],
  ['routes[0].request', 'x', /not a map; its keys are: host/],
  ['routes[0].request.host', '"a b"', /not a host with or without a port/],
  ['routes[0].request.addPrefix', '"/*"', /a prefix by itself/],
  ['routes[0].request.stripPrefix', '"/"', /"\/" is the begin of every path; leave it out/],
  ['routes[0].request.addPrefix', 'v1', /must begin with \//],
  ['routes[0].request.set', '[a]', /not a map of names/],
  ['routes[0].request.set.Connection', 'a', /set by the proxy itself/],
  ['routes[0].request.set.X-A', '"a\\r\\nB: c"', /not a header value/],
  ['routes[0].request.remove', 'X-A', /not a list/],
  ['routes[0].request.remove[0]', '"a b"', /not a header name/],
  ['routes[0].response', '[]', /not a map/],
  ['routes[0].response.set', 'x', /not a map of names/],
  ['routes[0].response.remove', '{}', /not a list/],
  ['routes[0].response.remove[0]', 'Content-Length', /set by the proxy itself/],
  ['resolver', '10.0.0.1', /not a map/],
  ['resolver.servers', '10.0.0.1', /not a list; write \["10\.0\.0\.1"\]$/],
  ['resolver.servers[0]', 'ns.example.com', /not the address of a name server/],
  ['resolver.servers[0]', '"10.0.0.1:70000"', /not the address of a name server/],
  ['resolver.servers[0]', '"fd00::zz"', /not the address of a name server/],
  ['resolver.timeout', '5', /5 has no unit/],
  ['tls', 'on', /not a map; its keys are: certificates/],
  ['tls.certificates', '{}', /is a map, not a list/],
  ['tls.certificates[0].cert', 'right.crt', /no absolute path/],
  ['tls.certificates[0].cert', '/nonexistent/a.crt', /"\/nonexistent\/a\.crt" cannot be read \(ENOENT\)/],
  ['tls.certificates[0].cert', '/dev', /"\/dev" is not a file/],
  ['tls.certificates[0].cert', NOTHING, /nothing\.pem": there is no certificate in PEM/],
  ['tls.certificates[0].key', '/nonexistent/a.key', /cannot be read \(ENOENT\)/],
  ['tls.certificates[0].key', NOTHING, /nothing\.pem": there is no private key in PEM/],
  ['tls.certificates[0].key', LOCKED, /the key is encrypted; give one without a passphrase/],
  ['tls.certificates[0].key', OTHER_KEY, /the key does not belong to the certificate for "CN=a"/],
  ['tls.certificates[0].names', 'a.test', /not a list/],
  ['tls.certificates[0].names', '[]', /give at least 1/],
  ['tls.certificates[0].names[0]', '"*"', /not a host name that clients can request/],
  ['tls.certificates[0].names[0]', '10.0.0.1', /not a host name that clients can request/],
  ['tls.certificates[0].names[0]', '"a..b"', /is not a label/],
  ['tls.minVersion', 'TLSv1.1', /none of "TLSv1\.2", "TLSv1\.3"/],
  ['tls.move', 'auto', /none of "off", "on"/],
  ['tls.rotateTicketKeys', '10ms', /from 1000ms/],
  ['timeouts.handshake', 'off', /not a duration/],
  ['drain', '30s', /not a map/],
  ['drain.timeout', '30', /has no unit/],
  ['drain.timeout', '-1s', /not a duration/],
  ['drain.move', 'always', /none of/],
  ['drain.tlsTimeout', 'never', /duration/],
  ['drain.generations', '0', /from 1 to 255/],
  ['drain.firstWave', 'soon', /duration/],
  ['drain.movesPerSecond', 'fast', /no whole number/],
  ['drain.lastEvent', 'x'.repeat(4_097), /4097 bytes, more than 4096/],
  ['upgrade', '30s', /not a map/],
  ['upgrade.timeout', '0s', /from 1ms/],
  ['upgrade.probation', '10 s', /not a duration/],
  ['upgrade.ready', '30', /has no unit/],
  ['upgrade.freeze', 'off', /not a duration/],
  ['upgrade.prepare', '[]', /is a list, not a duration/],
  ['upgrade.commit', '900h', /from 1ms to 596h \(24\.8 days\)/],
  ['upgrade.heartbeat', '0ms', /from 1ms/],
  ['upgrade.silence', '500ms', /not more than two heartbeats/],
  ['upgrade.health', 'soon', /"soon" is not a health check; write http:\/health/],
  ['upgrade.health', 'tcp:9000', /"9000" is not a valid tcp check/],
  ['upgrade.health', '{}', /the check is missing; give one of http, tcp, command/],
  ['upgrade.health', '{ http: /, tcp: "a:1" }', /there is more than one check; give one of/],
  ['upgrade.health', '7', /7 is a number, not a map/],
  ['upgrade.health.http', 'health', /"health" is not a valid http check; write \/health, or http:/],
  ['upgrade.health.http', 'https://a/', /is not a valid http check/],
  ['upgrade.health.tcp', '"5432"', /is not a valid tcp check; write 127\.0\.0\.1:5432/],
  ['upgrade.health.command', '" "', /is not a valid command check/],
  ['upgrade.health.host', '"a b.com"', /not a host \(app\.example\.com\)/],
  ['upgrade.health.listener', 'https', /"https" is not a listener for HTTP requests; those are: http/],
  ['upgrade.health.interval', '0s', /from 1ms/],
  ['upgrade.health.timeout', '2', /has no unit/],
  ['upgrade.health.timeout', '9750ms', /\(10000 ms\) are not less than upgrade\.probation \(10000 ms\)/],
  ['upgrade.health.passes', '0', /no whole number from 1 to 1000/],
  ['upgrade.health.within', '1s', /less than the time limit of one check \(timeout: 2000 ms\)/],
  ['upgrade.health.within', '30s', /not less than upgrade\.ready \(30000 ms\)/],
  ['hooks', 'on', /not a map/],
  ['hooks.success', '""', /is empty/],
  ['hooks.failure', 'http://', /is no URL/],
  ['hooks.rollback', '1', /not a command for sh, or a URL/],
  ['hooks.timeout', 'off', /not a duration/],
  ['timeouts', 'null', /not a map/],
  ['timeouts.head', '10S', /not a duration/],
  ['timeouts.idle', 'off', /not a duration/],
  ['timeouts.stall', 'off', /not a duration/],
  ['timeouts.tunnel', 'off', /not a duration/],
  ['timeouts.connect', '.5s', /not a duration|is a number/],
  ['timeouts.response', 'true', /true is a boolean, not a duration/],
  ['timeouts.request', 'never', /not a duration/],
  ['limits', '16k', /not a map/],
  ['limits.headBytes', '16kb', /no size \(512, 16k, 1m, 2g\)/],
  ['limits.headBytes', '2m', /2097152 bytes, outside of 1024 to 1048576/],
  ['limits.fields', '0', /no whole number/],
  ['limits.body', '1.5m', /no size/],
  ['limits.body', '-1', /a number, not a size|no size/],
  ['limits.connections', '10k', /no whole number/],
  ['limits.connectionsPerClient', '0', /no whole number/],
  ['via', 'two words', /not a name for Via/],
  ['trace', 'on', /neither true nor false/],
  ['errorPages', '/srv/404.html', /not a map of statuses to files/],
  ['accessLog', 'on', /"on" is neither true nor false/],
  ['accessLine', 'json', /not a map; its keys are: format, fields/],
  ['tracing', 'on', /not a map; its keys are: requestId, traceparent/],
  ['accessLine.format', 'xml', /"xml" is none of "json", "common", "combined"/],
  ['accessLine.fields', 'ms', /not a list; write \["ms"\]/],
  ['accessLine.fields[0]', 'queuMs', /no field of the access log \(did you mean "queueMs"\?\)/],
  ['accessLine.fields[0]', '"header:a b"', /no field of the access log; write listener, client/],
  ['accessLine.fields', '[ms, ms]', /"ms" is given twice/],
  ['tracing.requestId', '"X Id"', /not a header name/],
  ['tracing.requestId', 'X_Forwarded_For', /has another meaning/],
  ['tracing.requestId', 'TraceParent', /has another meaning/],
  ['tracing.requestId', 'a-b-c-d-e-f-g-h-i-j', /more than 8 hyphens/],
  ['tracing.traceparent', 'on', /neither true nor false/],
  ['metrics', '9100', /not a listener address/],
  ['metrics', 'unix:/run/edge/upgrade.sock', /is the path of a socket too/],
  ['metrics', 'udp://127.0.0.1:9100', /UDP/],
  ['ready', 'healthz', /must begin with \//],
  ['source', 'redis://a/b', /no store: write etcd:/],
  ['source', 'etcd://a:1', /no store/],
  ['source', 'etcd://a:x/b', /no store/],
  ['source', '{ url: "etcd://a/b", user: it }', /both "user" and "passwordFile"/],
  ['source.url', 'ftp://a', /no store/],
  ['source.user', '""', /not a name/],
  ['source.passwordFile', 'password', /no absolute path/],
  ['source.ca', '/nowhere/ca', /cannot be read \(ENOENT\)/],
  ['source.cert', '/nowhere/cert', /cannot be read/],
  ['source.key', '/nowhere/key', /cannot be read/],
  ['forwarded', 'yes', /"yes" is none of "off", "x-forwarded", "forwarded", "both"/],
  ['forwarded.headers', 'all', /none of/],
  ['forwarded.trust', '10.0.0.1', /not a list/],
  ['forwarded.trust[0]', '10.0.0.0/33', /not an address or network/],
  ['forwarded.trust[0]', 'localhost', /not an address or network/],
]

/** Required keys beside a key, which is one of an upstream or has its whole path. */
const BESIDE: Readonly<Record<string, string>> = {
  'queue.timeout': 'requests: 1',
  'sticky.maxAge': 'cookie: edge',
  'sticky.secure': 'cookie: edge',
  'listeners[0].clientCa.required': `file: ${CERT_FILE}`,
  'listeners[0].clientCa.revoked': `file: ${CERT_FILE}`,
  ...Object.fromEntries(
    ['methods', 'headers', 'expose', 'credentials', 'maxAge'].map(key => [
      `routes[0].cors.${key}`,
      'origins: ["*"]',
    ]),
  ),
  ...Object.fromEntries(
    ['per', 'burst', 'by', 'name'].map(key => [`routes[0].rateLimit.${key}`, 'requests: 1']),
  ),
  ...Object.fromEntries(
    ['path', 'timeout', 'requestHeaders', 'responseHeaders'].map(key => [
      `routes[0].forwardAuth.${key}`,
      'upstream: a',
    ]),
  ),
  'routes[0].basicAuth.realm': `users: { a: "${'0'.repeat(64)}" }`,
}

/** A file in which everything is right but the value at `key`. */
function fileWith(key: string, value: string): string {
  const steps = [...key.matchAll(/\["([^"]*)"\]|\[(\d+)\]|([\w-]+)/g)].map(
    step => step[1] ?? step[2] ?? step[3]!,
  )
  const [top = '', ...below] = steps
  const listed = /\[0\]/.test(key)
  const around = (within: string) => {
    if (key.startsWith('listeners[0].')) {
      return ['name: http', 'address: "unix:/a"'].filter(part => !part.startsWith(within)).join(', ')
    }
    if (key.startsWith('upstreams.a.') && !below[1]?.startsWith('servers')) return 'servers: ["http://a:1"]'
    if (key.startsWith('upgrade.health.') && !['http', 'tcp', 'command'].includes(within))
      return 'http: /health'
    if (key.startsWith('workers.') && within !== 'count') return 'count: 2'
    if (key.startsWith('source.') && within !== 'url') return 'url: "etcd://a/b"'
    if (key.startsWith('stateFile.') && within !== 'path') return 'path: /a'
    if (key.startsWith('tls.certificates[0].')) {
      const rest = { cert: CERT_FILE, key: KEY_FILE, [within]: undefined }
      return Object.entries(rest)
        .flatMap(([key, path]) => (path === undefined ? [] : `${key}: ${path}`))
        .join(', ')
    }
    if (key.startsWith('routes[0].')) {
      const host = below[1] === 'host' ? '' : 'host: h'
      const target = below[1] === 'respond' || below[1] === 'upstream' ? '' : 'respond: {}'
      return [host, target].filter(part => part !== '').join(', ')
    }
    return ''
  }
  let text = value
  for (const [depth, step] of [...below.entries()].reverse()) {
    if (/^\d+$/.test(step)) text = `[${text}]`
    else {
      const inList = listed && top !== 'upstreams' && top !== 'forwarded'
      const nested = top === 'upstreams' || key.startsWith('upgrade.health.')
      const first = depth === (inList ? below.indexOf('0') + 1 : nested ? 1 : 0)
      const beside = depth === below.length - 1 ? BESIDE[key.replace(/^upstreams\.a\./, '')] : undefined
      const more =
        step === 'weight' || step === 'backup'
          ? 'address: "http://a:1"'
          : first
            ? around(step)
            : (beside ?? '')
      text = `{ ${JSON.stringify(step)}: ${text}${more === '' ? '' : `, ${more}`} }`
    }
  }
  const kept = LEAST.split('\n').filter(line => !line.startsWith(`${top}:`))
  return `${kept.join('\n')}\n${top}: ${text}\n`
}

const LISTS: Readonly<Record<string, string>> = {
  listeners: '[0]',
  routes: '[0]',
  upstreams: '.a',
  'upstreams.a.servers': '[0]',
  'tls.certificates': '[0]',
}

/** Paths of all keys of the schema, as they are written in the table above. */
function keysOf(shape: Shape, before = ''): string[] {
  return Object.entries(shape).flatMap(([key, { fields }]) => {
    const path = before === '' ? key : `${before}.${key}`
    const within = LISTS[path] ?? ''
    return [path, ...(fields ? keysOf(fields, `${path}${within}`) : [])]
  })
}

describe('a wrong value', () => {
  it.each(WRONG)('of %s: %s', (key, value, message) => {
    const text = fileWith(key, value)
    const found = problems(text)
    expect(found).toEqual([expect.objectContaining({ key, message: expect.stringMatching(message) })])
    // The last line is the one with the key, and the column lies at the value, or at the key when that is wrong.
    const { line, column } = found[0]!
    const lines = text.split('\n')
    expect(line).toBe(lines.length - 1)
    const there = lines[line - 1]!.slice(column - 1)
    expect([value, '"a b"', '"Connection"', '"Date"'].some(start => there.startsWith(start))).toBe(true)
  })

  it('has a test for every key that there is', () => {
    const tested = new Set(WRONG.map(([key]) => key.replace(/\["a b"\]|\.Connection|\.Date|\.X-A/, '')))
    expect(keysOf(configShape(new Set(), new Set())).filter(key => !tested.has(key))).toEqual([])
  })

  it('of no kind is taken for another: every key refuses a map of something else', () => {
    for (const key of keysOf(configShape(new Set(), new Set()))) {
      const found = problems(fileWith(key, '{ nonsense: 1 }'))
      expect(found[0]?.key, key).toMatch(new RegExp(`^${key.replace(/[[\]]/g, '\\$&')}`))
    }
  })
})
