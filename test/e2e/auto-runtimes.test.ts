import { describe, expect, it } from 'vitest'
import { has } from '../processes/toolchains.js'
import { AutoProgram } from './auto-program.js'

const RUNTIMES: readonly (readonly [name: string, runtime: string, words: readonly string[]])[] = [
  ['Bun', 'bun', []],
  ['Deno', 'deno', ['run', '--allow-all']],
]

describe.each(RUNTIMES)('a program in %s', (name, runtime, words) => {
  it.skipIf(!has(runtime)).each([
    [
      'fd-broker/auto',
      "import 'fd-broker/auto'\nimport http from 'node:http'\nhttp.createServer().listen(8080)",
    ],
    ['join()', "import { join } from 'fd-broker'\nawait join({ service: 'shop', control: false })"],
  ])('ends with exit code 1, and says why: %s', async (_use, text) => {
    const program = await AutoProgram.of(text)
    const { code, stderr } = await program.sandbox.runCommand([runtime, ...words, program.path(program.file)])
    expect(stderr).toContain(`fd-broker does not run in ${name}`)
    expect(code).toBe(1)
  })
})
