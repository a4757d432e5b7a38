/**
 * The public face of the reference proxy, `fd-broker/proxy`: a reverse proxy whose routes are state, and which is replaced
 * while clients are connected, in a process of one's own.
 */
export type { ProxyConfig } from './config/config.js'
export { type ConfigProblem, configFrom, parseConfig, readConfig } from './config/load.js'
export type {
  Duration,
  FieldsDocument,
  ForwardedHeaders,
  HealthDocument,
  ListenerDocument,
  ProxyDocument,
  RouteDocument,
  Size,
  UpstreamDocument,
} from './config/proxy-document.js'
export { readConfigAside } from './config/read-aside.js'
export { type ProxyOptions, type ReverseProxy, startProxy } from './server.js'
export { certificateWarnings } from './tls/termination.js'
