/** The file of HAProxy as the new configuration says it, by the remarks about its lines: the real HAProxy tells what they make of each request. */
import type { Remark } from '../../src/convert/draft.js'
import {
  aclsOf,
  alternativesOf,
  closingIn,
  fatesOf,
  isPartOf,
  type Literal,
  negation,
  passingIn,
  textOf,
} from './named-refusals.js'

/** Differences that concern no request of these. */
const HARMLESS =
  /^(?:by the path|by whole names|by the host of the request|upper and lower case differ|of several values|several values are|left out: fd-broker servers|all backup servers share|for all listeners|there is one )/
/** The value of a header, or a target, that ours takes from the request as it came. */
const AS_SENT = /^its value has the request as the client sent it/

const CHANGED = / of the changed request$/

/** A change of paths that leaves out the slash behind the path itself. */
const ITSELF = [/(replace-\w+) \^?(\/\w+)\(\/\)\?\(\.\*\) (\S*)\/\\2/, '$1 ^$2(/.*)?$$ $3\\1'] as const

/** How a reading takes a line that a remark is about: as the remark says, so with more requests that fulfil its condition, or as it is written. */
type Mode = 'named' | 'widened' | 'written'
const MODES: readonly Mode[] = ['named', 'widened', 'written']

const MOST_READINGS = 100

interface Reading {
  readonly text: string
  /** The same without the lines whose values are named as those of the request as it came. */
  readonly valueless: string
}

/**
 * Yields files that the remarks describe. A remark may hold for some requests only: for the requests of one frontend, for those that an earlier line has not
 * changed, or where another line is lost too. So each line is read as its remark says, and as it is written, with those of up to two others.
 */
export function* readingsOf(text: string, remarks: readonly Remark[]): Generator<Reading> {
  const named = remarks.filter(each => whyOf(each) !== '')
  const bases: ((remark: Remark) => Mode)[] = [
    () => 'named',
    () => 'widened',
    // A backend refuses its requests wherever a line may lead to it.
    ({ line }) => (line.text.startsWith('use_backend') ? 'named' : 'widened'),
  ]
  const plain = withoutValues(text, remarks)
  const seen = new Set<string>()
  for (const flips of flipsOf(named.length))
    for (const base of bases) {
      const modes = named.map((each, at) => flips.get(at) ?? base(each))
      const reading = asNamed(text, named, modes)
      if (seen.size === MOST_READINGS) return
      if (!seen.has(reading)) yield { text: reading, valueless: asNamed(plain, named, modes) }
      seen.add(reading)
    }
}

/** Yields modes for none of the remarks, for each one, and for each two. */
function* flipsOf(count: number): Generator<ReadonlyMap<number, Mode>> {
  yield new Map()
  const single = Array.from({ length: count }, (_, at) => MODES.map(mode => [at, mode] as const)).flat()
  for (const one of single) yield new Map([one])
  for (const one of single) for (const other of single) if (one[0] < other[0]) yield new Map([one, other])
}

/** The differences that a remark names, of those that concern the requests of these files; empty if there are none. */
function whyOf({ line, outcome, whys }: Remark): string {
  if ((outcome !== 'missing' && outcome !== 'near') || typeof line.place !== 'number') return ''
  return whys.filter(each => !HARMLESS.test(each) && !AS_SENT.test(each)).join('; ')
}

function asNamed(text: string, remarks: readonly Remark[], modes: readonly Mode[]): string {
  const lines = text.split('\n')
  for (const [index, remark] of remarks.entries()) {
    const at = Number(remark.line.place) - 1
    if (modes[index] !== 'written')
      lines[at] = lineAsNamed(lines, at, whyOf(remark), modes[index] === 'widened')
  }
  return lines.join('\n')
}

/** Returns the file without the lines whose values are named as those of the request as it came. */
function withoutValues(text: string, remarks: readonly Remark[]): string {
  const lines = text.split('\n')
  for (const { line, whys } of remarks)
    if (whys.some(each => AS_SENT.test(each)) && typeof line.place === 'number') lines[line.place - 1] = ''
  return lines.join('\n')
}

function lineAsNamed(lines: readonly string[], at: number, why: string, isWidened: boolean): string {
  const [, option] = /(?:^|; )without (\S+)$/.exec(why) ?? []
  const written = option === undefined ? lines[at]! : lines[at]!.replace(new RegExp(` ${option}( s=1)?`), '')
  if (/^it replaces the header/.test(why)) return written.replace('add-header', 'set-header')
  if (/^without/.test(why)) return written
  if (/^(?:only at the begin|by whole segments)/.test(why))
    return (/ itself becomes \//.test(why) ? written.replace(...ITSELF) : written)
      .replace(/(replace-\w+) \^?(\/\w+)\(\/\)\?/, '$1 ^$2(/|$$)')
      .replace(/(replace-\w+) \//, '$1 ^/')
  // Clients must not say in its place what HAProxy says.
  if (/no such variable/.test(why) && written.includes('http-request set-header'))
    return written.replace(/set-header (\S+) \S+/, 'del-header $1')
  const [closing, passing] = [closingIn(why), passingIn(why)]
  if (closing === '' && passing === '') return ''
  const [, action = '', word, condition = ''] = /^(.*?) (if|unless) (.*)$/.exec(written) ?? []
  // A condition that an earlier rule has left.
  if (word === undefined) return isWidened || closing !== '' ? written : ''
  const any = alternativesOf(condition.trim().split(/\s+/), aclsOf(lines, at))
  const [closes, passes, fate] = [isPartOf(closing), isPartOf(passing), fatesOf(why)]
  // A pattern that is named takes more paths, not all.
  const wide = closing
    .split(' or ')
    .filter(each => /^path(?:_\w+)? (?!-f )/.test(each) && !CHANGED.test(each))
  const isWide = isPartOf(wide.join(' or '))
  const isKnown = any.flat().some(each => closes(each) || passes(each))
  // A part that stands for all of the condition.
  if (!isKnown) return isWidened || closing !== '' ? action : ''
  const isDropped = (each: Literal) =>
    isWidened ? closes(each) || passes(each) : closes(each) && !isWide(each)
  const left = (word === 'unless' ? negation(any) : any)
    .filter(all => isWidened || fate(all) !== 'passes')
    .map(all => all.filter(each => !isDropped(each)))
  if (left.length === 0) return ''
  const texts = left.map(all => (all.length === 0 ? '{ always_true }' : all.map(textOf).join(' ')))
  // A line has at most 64 words.
  return [...new Set(texts)].map(each => `${action} if ${each}`).join('\n')
}
