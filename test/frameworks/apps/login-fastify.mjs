import cookie from '@fastify/cookie'
import session from '@fastify/session'
import Fastify from 'fastify'

const app = Fastify()
await app.register(cookie)
await app.register(session, { secret: 'keyboard cat, who has 32 letters', cookie: { secure: false } })

// With a session for each client, also for a health check.
app.get('/', (_request, reply) => reply.type('text/plain').send(`pid ${process.pid}\n`))
app.post('/login/:user', async request => {
  request.session.user = request.params.user
  request.session.visits = 0
  return { user: request.session.user }
})
app.get('/visit', async request => {
  request.session.visits++
  return { user: request.session.user ?? null, visits: request.session.visits, pid: process.pid }
})
await app.listen({ port: 8080, host: '127.0.0.1' })
