import { readdirSync, readFileSync } from 'node:fs'
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { http1Code, REFUSALS } from '../../../src/errors/http1-refusals.js'
import { REFUSAL_REASONS } from '../../../src/http1/index.js'
import { errorDocs } from '../../../tools/error-docs.mjs'
import { CATALOGUE } from '../../../tools/errors/catalogue.mjs'

const root = fileURLToPath(new URL('../../..', import.meta.url))

const catalogued = Object.values(CATALOGUE).flatMap(area => Object.keys(area))

/** Codes that are written out in the files below a folder: outside comments, and whole. */
function written(folder: string, but: RegExp): Set<string> {
  const codes = new Set<string>()
  // With types: links are not followed, and what tests have installed links to the whole project.
  for (const entry of readdirSync(`${root}/${folder}`, { recursive: true, withFileTypes: true })) {
    const path = relative(`${root}/${folder}`, `${entry.parentPath}/${entry.name}`)
    if (!entry.isFile() || path.includes('node_modules/')) continue
    if (!/\.(c|h|ts|mjs)$/.test(path) || but.test(path)) continue
    const text = readFileSync(`${root}/${folder}/${path}`, 'utf8')
    for (const line of text.split('\n')) {
      if (/^\s*(\*|\/\*|\/\/)/.test(line)) continue
      for (const [code] of line.matchAll(/\bERR_FDB_[A-Z0-9_]*[A-Z0-9]\b/g)) codes.add(code)
    }
  }
  return codes
}

describe('the catalogue of errors', () => {
  it('has every code that the sources have, and no other; each is raised outside the list of codes', () => {
    const raised = new Set([...written('src', /^(proto|errors)\//), ...written('native', /^$/)])
    const declared = written('src/errors', /^http1-refusals/)
    expect(new Set(catalogued).size, 'each once').toBe(catalogued.length)
    expect([...raised].sort()).toEqual([...catalogued].sort())
    expect([...declared].sort()).toEqual([...catalogued].sort())
  })

  it('says of each why it is raised and what to do, in one sentence each', () => {
    for (const [code, { cause, remedy }] of Object.values(CATALOGUE).flatMap(area => Object.entries(area))) {
      for (const text of [cause, remedy]) expect(text, code).toMatch(/^[A-Z`][^|\n]*[^.|\n]$/)
    }
  })

  it('has no code that no test raises', () => {
    const asserted = written('test', /^fixtures\/releases|^unit\/error-catalogue/)
    expect(catalogued.filter(code => !asserted.has(code))).toEqual([])
  })

  it('matches docs/errors.md (node tools/error-docs.mjs makes it)', () => {
    const refusals = REFUSAL_REASONS.map(reason => [http1Code(reason), REFUSALS[reason]])
    expect(readFileSync(`${root}/docs/errors.md`, 'utf8')).toBe(errorDocs(Object.fromEntries(refusals)))
  })

  it('has no status of a refused request that is not among the proxy’s own answers in docs/proxy.md', () => {
    const [, answers = ''] = readFileSync(`${root}/docs/proxy.md`, 'utf8').split('## Answers of its own\n')
    const rows = answers.split('\n## ')[0]!.matchAll(/^- ([\d, ]+): /gm)
    const shown = [...rows].flatMap(([, statuses]) => statuses!.split(', ').map(Number))
    const statuses = new Set(REFUSAL_REASONS.map(reason => REFUSALS[reason][0]))
    expect([...statuses].filter(status => !shown.includes(status))).toEqual([])
  })
})
