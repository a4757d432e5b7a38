/** The reference proxy: a reverse proxy whose routes are state, and which is replaced while clients are connected. */
export type { ProxyConfig } from './config/config.js'
export { parseConfig, readConfig } from './config/load.js'
export { readConfigAside } from './config/read-aside.js'
export { type ProxyOptions, type ReverseProxy, startProxy } from './server.js'
export { certificateWarnings } from './tls/termination.js'
