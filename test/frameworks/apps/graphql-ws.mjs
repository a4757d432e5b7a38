// Subscriptions go on in the next version, which gets the client's first message and its operations again, from where they are.
import { createServer } from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { moveWebSockets } from 'fd-broker/ws'
import { buildSchema } from 'graphql'
import { handleProtocols, makeServer } from 'graphql-ws'
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

const graphql = makeServer({
  schema,
  roots,
  onSubscribe: ({ extra }, id, payload) => void extra.operations.set(id, payload),
  onNext: ({ extra }, id, payload, _args, { data }) => {
    if (isSubscription(payload)) extra.operations.get(id).variables.from = data.count.n + 1
  },
  onComplete: ({ extra }, id) => void extra.operations.delete(id),
})
const server = createServer((_request, response) => response.end(`pid ${process.pid}\n`))
const wss = new WebSocketServer({ server, handleProtocols })
const talks = new WeakMap()
wss.on('connection', ws => talk(ws))
moveWebSockets(wss, {
  serialize(ws) {
    const { init, operations, closed } = talks.get(ws)
    // A query or a mutation is not made twice.
    if (![...operations.values()].every(isSubscription)) return undefined
    const data = Buffer.from(JSON.stringify({ init, operations: [...operations] }))
    closed(1001, 'another version goes on')
    return data
  },
  restore: (ws, data) => talk(ws, JSON.parse(Buffer.from(data).toString())),
})
server.listen(8080)

function isSubscription({ query }) {
  return query.trimStart().startsWith('subscription')
}

/** `past`: what the previous version knew of the client. */
function talk(ws, past) {
  const own = { init: past?.init, operations: new Map(), closed: () => {} }
  talks.set(ws, own)
  let handle
  let isRepeating = past?.init !== undefined
  own.closed = graphql.opened(
    {
      protocol: ws.protocol,
      // The client has got the answer to its first message.
      send: text => void (isRepeating || ws.send(text)),
      close: (code, reason) => ws.close(code, reason),
      onMessage: given => {
        handle = given
      },
    },
    own,
  )
  const repeated = repeat()
  ws.on('message', text => {
    own.init ??= String(text)
    void repeated.then(() => handle(String(text)))
  })
  ws.once('close', (code, reason) => own.closed(code, String(reason)))

  async function repeat() {
    if (!isRepeating) return
    await handle(past.init)
    isRepeating = false
    for (const [id, payload] of past.operations)
      void handle(JSON.stringify({ id, type: 'subscribe', payload }))
  }
}
