// @ts-check
// node relay-proxy.mjs UPSTREAM_PORT: the bare relay, with the fields that a proxy adds.
import net from 'node:net'
import { Relay, UpstreamPools } from '../../build/modules/relay/index.js'

const port = Number(process.argv[2])
const destination = {
  key: 'a',
  authority: 'a',
  address: { kind: /** @type {const} */ ('tcp'), host: '127.0.0.1', port },
}
const route = { kind: /** @type {const} */ ('upstream'), name: 'r', pick: () => destination }
const relay = new Relay({
  pools: new UpstreamPools(),
  route: () => route,
  responseFields: { set: { 'X-Gen': String(process.pid) } },
})
const origin = { listener: 'http', scheme: /** @type {const} */ ('http') }
const server = net.createServer({ noDelay: true, allowHalfOpen: true, pauseOnConnect: true }, socket =>
  relay.accept(socket, origin),
)
server.listen(0, '127.0.0.1', 16_384, () => process.send?.(server.address()))
