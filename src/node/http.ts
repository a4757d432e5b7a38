import type http from 'node:http'
import type net from 'node:net'

/**
 * `node:http`, loaded when it is asked for: most processes start sooner without. And only what is used of it is made: an `import` makes all that it
 * exports, and Node 22 and 24 load a whole HTTP client for some of that (30 ms).
 */
export function nodeHttp(): typeof http {
  return process.getBuiltinModule('node:http')
}

/** Has a method that net's and tls's servers have not, so that no process has to load `node:http` to learn that it uses none. */
export function isHttpServer(server: net.Server): server is http.Server {
  return 'closeIdleConnections' in server && server instanceof nodeHttp().Server
}
