import { readFileSync } from 'node:fs'
import { extname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { AutoProgram } from '../e2e/auto-program.js'
import { JSON_BODY, type Question, upgradedFiveTimes } from '../e2e/auto-record.js'
import { installed } from './installed.js'

/** A version that was replaced stands by so long; a retired one waits for its timers so long. */
const SOON = { FD_BROKER_PROBATION: '500ms', FD_BROKER_EXIT: '500ms' }
const MISSING: Question = { path: '/missing' }
const CHAIR = JSON.stringify({ title: 'A chair' })
const ADD: Question = { method: 'POST', path: '/articles', headers: JSON_BODY, body: CHAIR }
const ARTICLES: readonly Question[] = [
  { path: '/articles/7' },
  { path: '/articles/8', headers: { accept: 'text/html' } },
  { method: 'HEAD', path: '/articles/7' },
  ADD,
  MISSING,
]
const BROKEN: Question = { ...ADD, body: '{' }
const APPS: Readonly<Record<string, readonly Question[]>> = {
  'fastify.mjs': [...ARTICLES, BROKEN],
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

/** An application of apps/. */
function app(file: string, env: Readonly<Record<string, string>> = {}): Promise<AutoProgram> {
  const text = readFileSync(new URL(`apps/${file}`, import.meta.url), 'utf8')
  return AutoProgram.of(text, `server${extname(file)}`, { modules, env: { ...SOON, ...env } })
}

/** What its processes have written; a replaced one may say that a timer kept it. */
function complaints(program: AutoProgram): string[] {
  const ended = /^fd-broker: process \d+ does not serve any more .* 1 Timeout kept it: it is ended /
  return program.output.split('\n').filter(line => line !== '' && !ended.test(line))
}

describe('under fd-broker/auto an application answers as without it, and is upgraded five times without a lost request:', () => {
  it.each(Object.keys(APPS))('%s', async file => {
    const program = await app(file)
    await upgradedFiveTimes(program, { questions: APPS[file]! })
    expect(complaints(program)).toEqual([])
  })
})
