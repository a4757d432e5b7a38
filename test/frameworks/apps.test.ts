import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { type Question, upgradedAndAlike } from '../e2e/auto-record.js'
import { articles } from './articles.js'
import { installed } from './installed.js'
import { ADD, ARTICLES, MISSING, unexpectedLines, unmodified } from './unmodified.js'

const APPS: Readonly<Record<string, readonly Question[]>> = {
  'fastify.mjs': [...ARTICLES, { ...ADD, body: '{' }],
  'sse.mjs': [{ path: '/dashboard' }, { method: 'HEAD', path: '/dashboard' }],
  'socketio.mjs': [MISSING, { path: '/socket.io/socket.io.js' }, { path: '/socket.io/?EIO=3' }],
  'koa.mjs': [{ path: '/articles?limit=2' }, { method: 'HEAD', path: '/articles' }, MISSING],
  'hono.mjs': [...ARTICLES, { path: '/export' }],
  'yoga.mjs': [
    { ...ADD, path: '/graphql', body: '{"query":"{ article(id: 7) { title } }"}' },
    { ...ADD, path: '/graphql', body: '{"query":"{ wrong }"}' },
    { path: `/graphql?query=${encodeURIComponent('{ article(id: 8) { id title } }')}` },
    { path: '/graphql', headers: { accept: 'text/html' } },
    MISSING,
  ],
}
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

describe('under fd-broker/auto an application answers as without it, and is upgraded five times without a lost request:', () => {
  it.each(Object.keys(APPS))('%s', async file => {
    const program = await unmodified(file, { modules })
    await upgradedAndAlike(program, { questions: APPS[file]! })
    expect(unexpectedLines(program)).toEqual([])
  })

  it('express.mjs, with a pool of pg and a job of node-cron', async () => {
    const { url, jobs } = await articles()
    const program = await unmodified('express.mjs', { modules, env: { DATABASE_URL: url } })
    await upgradedAndAlike(program, { questions: ARTICLES })
    expect(unexpectedLines(program)).toEqual([])
    expect(jobs.length).toBeGreaterThan(0)
  })
})
