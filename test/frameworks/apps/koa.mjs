import Koa from 'koa'

const app = new Koa()
app.use(async (context, next) => {
  await next()
  context.set('x-powered-by', 'koa')
})
app.use(context => {
  if (context.path === '/') context.body = `pid ${process.pid}\n`
  else if (context.path === '/articles') context.body = { query: context.query, articles: ['A chair'] }
})
app.listen(8080)
