import express from 'express'
import session from 'express-session'

const app = express()
app.use(session({ secret: 'keyboard cat', resave: false, saveUninitialized: false }))

app.get('/', (_request, response) => response.type('text').send(`pid ${process.pid}\n`))
app.post('/login/:user', (request, response) => {
  request.session.user = request.params.user
  request.session.visits = 0
  response.json({ user: request.session.user })
})
app.get('/visit', (request, response) => {
  request.session.visits++
  response.json({ user: request.session.user ?? null, visits: request.session.visits, pid: process.pid })
})
app.listen(8080)
