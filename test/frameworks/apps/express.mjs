import express from 'express'
import cron from 'node-cron'
import pg from 'pg'

const db = new pg.Pool({ connectionString: process.env.DATABASE_URL })
const app = express()
app.use(express.json())

app.get('/', (_request, response) => response.type('text').send(`pid ${process.pid}\n`))
app.get('/articles/:id', async (request, response) => {
  const { rows } = await db.query('SELECT id, title FROM articles WHERE id = $1', [request.params.id])
  response.json(rows[0])
})
app.post('/articles', (request, response) => response.status(201).json({ title: request.body.title }))
app.listen(8080)

cron.schedule('* * * * * *', ({ date }) => db.query('SELECT refresh_prices($1)', [date.toISOString()]))
