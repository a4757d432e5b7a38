import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { stream } from 'hono/streaming'

const app = new Hono()
app.get('/', context => context.text(`pid ${process.pid}\n`))
app.get('/articles/:id', context => context.json({ id: context.req.param('id'), title: 'A chair' }))
app.post('/articles', async context => context.json({ title: (await context.req.json()).title }, 201))
app.get('/export', context =>
  stream(context, async out => {
    for (let line = 1; line <= 5; line++) await out.write(`line ${line}\n`)
  }),
)

serve({ fetch: app.fetch, port: 8080 })
