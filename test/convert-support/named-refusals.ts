/** The file of the other server without the refusals that the new configuration names: the real server tells what is left of them. */
import type { Conversion, Language } from '../../src/convert/convert.js'

/** Returns the file without the parts of refusals that a remark names as without a counterpart. Named parts that close their routes stay. */
export function withoutNamedRefusals(text: string, { remarks }: Conversion, language: Language): string {
  const lines = text.split('\n')
  for (const { line, outcome, why } of remarks) {
    if (outcome !== 'missing' || typeof line.place !== 'number') continue
    const at = line.place - 1
    const written = lines[at]!
    if (language === 'nginx') {
      if (/^\s*if .*\breturn 4\d\d/.test(written) && !/until it has a guard/.test(why)) lines[at] = ''
    } else if (REFUSAL.test(written)) lines[at] = withoutParts(written, why, aclsOf(lines, at)) ?? ''
  }
  return lines.join('\n')
}

const REFUSAL =
  /^\s*(?:http-response deny|use_backend %|http-request (?:deny|tarpit|reject|silent-drop|auth|return status 4)|tcp-request \S+ reject)/

export interface Literal {
  readonly not: boolean
  /** The test as the file has it. */
  readonly whole: string
  /** The test with one of its values. */
  readonly test: string
  /** The same without flags, as remarks name it. */
  readonly part: string
}

type Named = ReadonlyMap<string, readonly (readonly string[])[]>

/** The named conditions of the section of a line. */
export function aclsOf(lines: readonly string[], at: number): Named {
  const begin = lines.findLastIndex((each, index) => index <= at && /^\S/.test(each))
  const next = lines.findIndex((each, index) => index > at && /^\S/.test(each))
  const named = new Map<string, string[][]>()
  for (const each of lines.slice(begin, next < 0 ? undefined : next)) {
    const [first, name = '', ...test] = each.trim().split(/\s+/)
    if (first === 'acl') named.set(name, [...(named.get(name) ?? []), test])
  }
  return named
}

/** A refusal with the alternatives of its condition that have no named part; null if none is left. */
function withoutParts(line: string, why: string, acls: Named): string | null {
  // A difference that concerns the whole line, or only parts that close their routes.
  if (passingIn(why) === '') return /until they have a guard|some requests pass/.test(why) ? line : null
  const fate = fatesOf(why)
  const [, action = '', word, condition = ''] = /^(.*?) (if|unless) (.*)$/.exec(line) ?? []
  if (word === undefined) return line
  const any = alternativesOf(condition.trim().split(/\s+/), acls)
  const left = (word === 'unless' ? negation(any) : any).filter(all => fate(all) !== 'passes')
  if (left.length === 0) return null
  const texts = left.map(all => all.map(textOf).join(' '))
  // HAProxy reads at most 64 words of a line.
  return texts.map(each => `${action} if ${each === '' ? '{ always_true }' : each}`).join('\n')
}

/** Whether one of the parts that a remark names is a test. */
export function isPartOf(texts: string): (test: Literal) => boolean {
  const parts = texts.split(' or ').map(each => each.replace(/ of the changed request$/, ''))
  return ({ whole, part }) => parts.includes(whole) || parts.includes(part)
}

/** The parts of a condition whose routes are closed, and those that are lost. */
export const closingIn = (why: string) =>
  /^(.*?): (?:such routes answer 403 until they have a guard|more requests are refused)/.exec(why)?.[1] ?? ''
export const passingIn = (why: string) => /no counterpart: (.*?)(?:;|$)/.exec(why)?.[1] ?? ''

/** Returns a function that tells what becomes of an alternative. A part may be named twice: where the requests must not fulfil it, its routes are closed. */
export function fatesOf(why: string): (all: readonly Literal[]) => 'closes' | 'passes' | 'said' {
  const [closes, passes] = [isPartOf(closingIn(why)), isPartOf(passingIn(why))]
  return all => {
    if (all.some(each => closes(each) && (each.not || !passes(each)))) return 'closes'
    return all.some(passes) ? 'passes' : 'said'
  }
}

/** A test with its braces; conditions that HAProxy itself names have none. */
export const textOf = ({ not, test }: Literal) =>
  `${not ? '!' : ''}${/^[A-Z_]+$/.test(test) ? test : `{ ${test} }`}`

export function alternativesOf(words: readonly string[], acls: Named): Literal[][] {
  let done: Literal[][] = []
  let all: Literal[][] = [[]]
  for (let at = 0; at < words.length; at += 1) {
    const word = words[at]!
    if (word === 'or' || word === '||') {
      done = [...done, ...all]
      all = [[]]
      continue
    }
    const not = word.startsWith('!')
    const name = not ? word.slice(1) : word
    const end = name === '{' ? words.indexOf('}', at) : at
    const tests = name === '{' ? [words.slice(at + 1, end)] : (acls.get(name) ?? [[name]])
    at = end
    const either = tests.flatMap(valuesOf).map(literal => [literal])
    all = product(all, not ? negation(either) : either)
  }
  return [...done, ...all]
}

const product = (some: readonly Literal[][], others: readonly Literal[][]) =>
  some.flatMap(one => others.map(other => [...one, ...other]))

export function negation(any: readonly Literal[][]): Literal[][] {
  let whole: Literal[][] = [[]]
  for (const all of any)
    whole = product(
      whole,
      all.map(each => [{ ...each, not: !each.not }]),
    )
  return whole
}

/** A test for each value that it compares with. */
function valuesOf(test: readonly string[]): Literal[] {
  const whole = test.join(' ')
  const begin = test.findIndex((word, at) => at > 0 && !word.startsWith('-') && test[at - 1] !== '-m')
  const values = begin < 0 || /^(?:gt|lt|ge|le|eq)$/.test(test[begin]!) ? [] : test.slice(begin)
  if (values.length === 0) return [{ not: false, whole, test: whole, part: whole }]
  const head = test.slice(0, begin).join(' ')
  return values.map(value => ({
    not: false,
    whole,
    test: `${head} ${value}`,
    part: `${test[0]} ${value}`,
  }))
}
