import websocket from '@fastify/websocket'
import Fastify from 'fastify'

const app = Fastify()
await app.register(websocket)

app.get('/', async () => `pid ${process.pid}\n`)
app.get('/articles/:id', async request => ({ id: request.params.id, title: 'A chair' }))
app.post('/articles', async (request, reply) => reply.code(201).send({ title: request.body.title }))
app.get('/talk', { websocket: true }, socket => {
  socket.on('message', text => socket.send(`${text} to pid ${process.pid}`))
})

await app.listen({ port: 8080, host: '127.0.0.1' })
