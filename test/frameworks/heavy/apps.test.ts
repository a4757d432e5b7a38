import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { upgradedAndAlike } from '../../e2e/auto-record.js'
import { installed } from '../installed.js'
import { ADD, ARTICLES, MISSING, unexpectedLines, unmodified, unmodifiedFolder } from '../unmodified.js'

const NEXT = 'node_modules/next/dist/bin/next'
/** Requests a second: these take more of the processor for one than others, and two versions start and serve at a time. */
const RATE = 50
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

describe('under fd-broker/auto an application answers as without it, and is upgraded five times without a lost request:', () => {
  it('nest.ts, by tsx', async () => {
    const program = await unmodified('nest.ts', { modules, words: ['--import', 'tsx'] })
    program.write('tsconfig.json', '{ "compilerOptions": { "experimentalDecorators": true } }')
    await upgradedAndAlike(program, { questions: ARTICLES, rate: RATE })
    expect(unexpectedLines(program)).toEqual([])
  })

  it('next, built, by next start', async () => {
    const program = await unmodifiedFolder('next', NEXT, { modules, args: ['start', '-p', '8080'] })
    const built = await program.sandbox.runCommand([
      'sh',
      '-c',
      `cd ${program.sandbox.folder} && node ${NEXT} build`,
    ])
    expect(built, built.stderr).toMatchObject({ code: 0 })
    const api = { path: '/api/articles' }
    const questions = [
      { path: '/about' },
      { method: 'HEAD', path: '/about' },
      api,
      { ...ADD, ...api },
      MISSING,
    ]
    await upgradedAndAlike(program, { by: 'options', questions, rate: RATE })
    expect(program.output).not.toContain('fd-broker')
  })
})
