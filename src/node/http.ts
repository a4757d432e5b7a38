import type http from 'node:http'
import type net from 'node:net'
import { nodeHttp } from '../base/lazy.js'

/** Has a method that net's and tls's servers have not, so that no process has to load `node:http` to learn that it uses none. */
export function isHttpServer(server: net.Server): server is http.Server {
  return 'closeIdleConnections' in server && server instanceof nodeHttp().Server
}
