import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { EXIT_CODES } from '../../../src/cli/output.js'
import { wholeProgram } from '../../../src/cli/program.js'
import { MOST_FILES } from '../../../src/code-cache/code-cache.js'
import { commandDocs } from '../../../tools/command-docs.mjs'

it('docs/commands.md is what the commands say of themselves (npm run command-docs makes it)', async () => {
  const page = readFileSync(new URL('../../../docs/commands.md', import.meta.url), 'utf8')
  expect(page).toBe(commandDocs(await wholeProgram(), EXIT_CODES))
})

it('the code cache has room for each command of two releases', async () => {
  expect((await wholeProgram()).commands.length * 2).toBeLessThanOrEqual(MOST_FILES)
})
