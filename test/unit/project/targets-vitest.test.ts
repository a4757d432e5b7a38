import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it } from 'vitest'

const ROOT = fileURLToPath(new URL('../../..', import.meta.url))
const NATIVE = join(ROOT, 'test/native')

/** Names that a file imports from vitest. */
function namesOf(file: string): string[] {
  const lists = [...readFileSync(file, 'utf8').matchAll(/^import \{([^}]*)\} from 'vitest'/gm)]
  return lists.flatMap(([, names = '']) => names.split(',')).map(name => name.trim())
}

it('each function of vitest that a test of the addon takes is there on platforms without vitest', () => {
  const files = readdirSync(NATIVE, { recursive: true, encoding: 'utf8' }).filter(
    name => name.endsWith('.ts') && name !== 'vitest.config.ts',
  )
  const taken = new Set(files.flatMap(name => namesOf(join(NATIVE, name))))
  expect(taken).toContain('describe')
  const program =
    "import('./test/targets/native/vitest.mjs').then(part => console.log(Object.keys(part).join(' ')))"
  const text = execFileSync(process.execPath, ['-e', program], { cwd: ROOT, encoding: 'utf8' })
  const there = text.split('\n', 1)[0]!.split(' ')
  expect([...taken].filter(name => !there.includes(name))).toEqual([])
})
