// @ts-check
// The server behind the proxies: node behind.mjs PORT. Ends with its parent.
import http from 'node:http'
import { OPTIONS, pages } from './pages.mjs'

http
  .createServer(OPTIONS, pages(null))
  .listen({ port: Number(process.argv[2]), host: '127.0.0.1', backlog: 4096 })
process.stdin.on('end', () => process.exit()).resume()
