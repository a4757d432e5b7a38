import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { expect, it, onTestFinished } from 'vitest'
import { includedBelow } from '../../../src/convert/convert.js'

/** Finds what a pattern names, among files of these names. */
function finder(...names: string[]): { folder: string; find: (pattern: string) => string[] } {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-included-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  mkdirSync(join(folder, 'sites'))
  for (const name of names) writeFileSync(join(folder, 'sites', name), '')
  const included = includedBelow(join(folder, 'nginx.conf'))
  return { folder, find: pattern => included(pattern).map(({ file }) => basename(file)) }
}

it.each([
  ['sites/*', ['a.conf', 'b1.conf', 'b2.conf', 'c[1].conf']],
  ['*/b*.conf', ['b1.conf', 'b2.conf']],
  ['sites/b?.conf', ['b1.conf', 'b2.conf']],
  ['sites/?.conf', ['a.conf']],
  ['sites/[a-b]*.conf', ['a.conf', 'b1.conf', 'b2.conf']],
  ['sites/b[!1].conf', ['b2.conf']],
  ['sites/c[[]1].conf', ['c[1].conf']],
  ['sites/b[2-1]*.conf', []],
  ['sites/b[2-13]*.conf', []],
  ['sites/[b-ac]*.conf', ['c[1].conf']],
  ['sites/.h*', ['.hidden']],
  ['nowhere/*.conf', []],
])('%s includes the files that nginx includes', (pattern, names) => {
  const { find } = finder('.hidden', 'a.conf', 'b1.conf', 'b2.conf', 'c[1].conf')
  expect(find(pattern)).toEqual(names)
})

it('a folder that cannot be read is an error: its files may have the guards', () => {
  const { find, folder } = finder()
  const loop = join(folder, 'loop')
  symlinkSync(loop, loop)
  expect(() => find('loop/*.conf')).toThrow(
    expect.objectContaining({
      code: 'ERR_FDB_CONFIG',
      message: expect.stringMatching(/loop\/ cannot be read \(ELOOP/),
    }),
  )
})
