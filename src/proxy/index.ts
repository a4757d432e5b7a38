/** The public API of `fd-broker/proxy`: a reverse proxy inside an application's process. The proxy's routes are in the state; an upgrade keeps its connections. */

export type { Duration, Size } from '../checks/values.js'
export type { HealthDocument } from './config/health.js'
export type { ListenerDocument } from './config/listeners.js'
export { type ConfigProblem, configFrom, parseConfig, readConfig, readConfigAside } from './config/load.js'
export type { ForwardedHeaders, ProxyConfig, ProxyDocument } from './config/schema.js'
export type { FieldsDocument, RouteDocument } from './routes/rule.js'
export { type ProxyOptions, type ReverseProxy, startProxy } from './server.js'
export { tlsWarnings } from './tls/termination.js'
export type { UpstreamDocument } from './upstreams/shape.js'
