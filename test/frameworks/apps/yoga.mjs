import { createServer } from 'node:http'
import { createSchema, createYoga } from 'graphql-yoga'

const yoga = createYoga({
  schema: createSchema({
    typeDefs: 'type Article { id: ID!, title: String! } type Query { article(id: ID!): Article, pid: Int! }',
    resolvers: {
      Query: { article: (_, { id }) => ({ id, title: 'A chair' }), pid: () => process.pid },
    },
  }),
})
const server = createServer((request, response) =>
  request.url === '/' ? response.end(`pid ${process.pid}\n`) : yoga(request, response),
)
server.listen(8080)
