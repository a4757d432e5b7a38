/** The public API of `fd-broker/proxy`: a reverse proxy inside an application's process. The proxy's routes are in the state; an upgrade keeps its connections. */
export type { ProxyConfig } from './config/config.js'
export { type ConfigProblem, configFrom, parseConfig, readConfig, readConfigAside } from './config/load.js'
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
export { type ProxyOptions, type ReverseProxy, startProxy } from './server.js'
export { certificateWarnings } from './tls/termination.js'
