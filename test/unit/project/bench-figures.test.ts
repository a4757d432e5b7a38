import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseAst } from 'rolldown/parseAst'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { Figures } from '../../../bench/report.mjs'

const BENCH = fileURLToPath(new URL('../../../bench', import.meta.url))
const OPERATORS = ["'='", "'<'", "'<='", "'>'", "'>='"]

/** A call of `add` or `info` on the figures of a bench: each argument as it stands in the source. */
interface Call {
  readonly at: string
  readonly method: string
  readonly given: readonly string[]
}

function callsIn(file: string): Call[] {
  const source = readFileSync(join(BENCH, file), 'utf8')
  const calls: Call[] = []
  // biome-ignore lint/suspicious/noExplicitAny: any node of a syntax tree
  const visit = (node: any): void => {
    if (node === null || typeof node !== 'object') return
    if (node.type === 'CallExpression' && node.callee.object?.name === 'figures')
      calls.push({
        at: `${file}:${source.slice(0, node.start).split('\n').length}`,
        method: node.callee.property.name,
        given: node.arguments.map(({ start, end }: { start: number; end: number }) =>
          source.slice(start, end),
        ),
      })
    for (const below of Object.values(node)) visit(below)
  }
  visit(parseAst(source))
  return calls
}

describe('the figures of the benches', () => {
  const files = readdirSync(BENCH, { recursive: true, encoding: 'utf8' }).filter(name =>
    name.endsWith('.mjs'),
  )
  const calls = files.flatMap(callsIn)
  const promises = calls.filter(({ method }) => method === 'add')
  const where = (wrong: readonly Call[]) => wrong.map(({ at, given }) => `${at}: ${given[0]}`)

  it('all have the name `figures`', () => {
    expect(calls.length).toBeGreaterThan(100)
    const made = files.flatMap(name =>
      [...readFileSync(join(BENCH, name), 'utf8').matchAll(/(\S+) = new Figures\(/g)].map(([, to]) => to),
    )
    expect(new Set(made)).toEqual(new Set(['figures']))
  })

  it('each have a bound, or are marked as information', () => {
    const unbound = promises.filter(({ given }) => given.length !== 5 || !OPERATORS.includes(given[3] ?? ''))
    expect(where(unbound)).toEqual([])
    const marked = calls.filter(({ method }) => method === 'info')
    expect(where(marked.filter(({ given }) => given.length !== 3))).toEqual([])
    expect(calls.filter(({ method }) => !['add', 'info', 'finish'].includes(method))).toEqual([])
  })

  it('never stand on both sides of a comparison', () => {
    expect(where(promises.filter(({ given }) => given[1] === given[4]))).toEqual([])
  })

  it('finish in each bench that has some, so that its exit code tells', () => {
    const made = files.filter(name => readFileSync(join(BENCH, name), 'utf8').includes('new Figures('))
    const finished = new Set(
      calls.filter(({ method }) => method === 'finish').map(({ at }) => at.split(':')[0]),
    )
    expect(made.filter(name => name !== 'report.mjs' && !finished.has(name))).toEqual([])
  })
})

describe('a verdict', () => {
  const exitCode = process.exitCode
  beforeEach(() => void vi.spyOn(console, 'log').mockReturnValue())
  afterEach(() => {
    vi.restoreAllMocks()
    process.exitCode = exitCode
  })

  function exitCodeOf(judge: (figures: Figures) => void): typeof process.exitCode {
    process.exitCode = undefined
    const figures = new Figures('a test')
    judge(figures)
    figures.finish(undefined)
    return process.exitCode
  }

  it('gives 1 when a figure breaks its bound, or is no number', () => {
    expect(exitCodeOf(figures => figures.add('lost', 1, 'requests', '=', 0))).toBe(1)
    for (const compare of ['=', '<', '<=', '>', '>='] as const)
      expect(exitCodeOf(figures => figures.add('never measured', Number.NaN, 'ms', compare, 0))).toBe(1)
  })

  it('gives none when all bounds hold, whatever the information is', () => {
    const verdict = exitCodeOf(figures => {
      figures.add('lost', 0, 'requests', '=', 0)
      figures.info('never measured', Number.NaN, 'ms')
    })
    expect(verdict).toBeUndefined()
  })

  it('cannot be asked for without a bound', () => {
    const figures = new Figures('a test')
    // @ts-expect-error: that is what is tried
    expect(() => figures.add('p99', 1, 'ms')).toThrow('p99: a promise has a bound')
    expect(() => figures.add('p99', 1, 'ms', '<=', Number.NaN)).toThrow('a promise has a bound')
    // @ts-expect-error: the same
    expect(() => figures.add('p99', 1, 'ms', 'about', 2)).toThrow('a promise has a bound')
  })
})
