// The client subscribes again to the next version.
import { createServer } from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { moveWebSockets } from 'fd-broker/ws'
import { buildSchema } from 'graphql'
import { useServer } from 'graphql-ws/use/ws'
import { WebSocketServer } from 'ws'

const schema = buildSchema(`
  type Count { n: Int!, pid: Int! }
  type Query { pid: Int! }
  type Subscription { count(from: Int!): Count! }
`)
const roots = {
  query: { pid: () => process.pid },
  subscription: {
    async *count({ from }) {
      for (let n = from; ; n++) {
        yield { count: { n, pid: process.pid } }
        await pause(20)
      }
    },
  },
}
const server = createServer((_request, response) => response.end(`pid ${process.pid}\n`))
const wss = new WebSocketServer({ server })
useServer({ schema, roots }, wss)
moveWebSockets(wss)
server.listen(8080)
