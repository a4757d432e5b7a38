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

/** Yields the file as the remarks leave it, with some lines widened: more requests fulfil what cannot be said of their conditions. */
export function* readingsOf(text: string, remarks: readonly Remark[]): Generator<string> {
  yield asNamed(text, remarks, () => false)
  yield asNamed(text, remarks, () => true)
  // A backend refuses its requests wherever a line may lead to it.
  for (const one of remarks.filter(({ line, outcome }) => isChoice(line) && outcome === 'missing')) {
    yield asNamed(text, remarks, each => each === one || !isChoice(each.line))
    yield asNamed(text, remarks, each => each === one)
  }
  // A rule of a backend may lose a part for one frontend, and be said for another.
  for (const one of remarks.filter(({ line, outcome }) => outcome === 'missing' && isOfBackend(text, line)))
    yield asNamed(
      text,
      remarks.filter(each => each !== one),
      () => false,
    )
}

/** Whether a line is in a backend, which several frontends may lead requests to. */
function isOfBackend(text: string, { place }: Remark['line']): boolean {
  const lines = text.split('\n').slice(0, Number(place))
  return /^(?:backend|listen)\b/.test(lines.findLast(each => /^\S/.test(each)) ?? '')
}

const isChoice = ({ text }: Remark['line']) => text.startsWith('use_backend')

function asNamed(text: string, remarks: readonly Remark[], isWidened: (remark: Remark) => boolean): string {
  const lines = text.split('\n')
  for (const remark of remarks) {
    const { line, outcome } = remark
    if ((outcome !== 'missing' && outcome !== 'near') || typeof line.place !== 'number') continue
    const whys = remark.whys.filter(each => !HARMLESS.test(each) && !AS_SENT.test(each))
    const at = line.place - 1
    if (whys.length === 0) continue
    const written = lines[at]!
    lines[at] = lineAsNamed(lines, at, whys.join('; '), isWidened(remark))
    // Requests that an earlier rule allows are not excepted.
    const allowed = isWidened(remark) && OF_ALLOWANCE.test(whys.join('; ')) ? allowanceBefore(lines, at) : -1
    if (allowed >= 0) lines[allowed] = `${written}\n${lines[allowed]}`
  }
  return lines.join('\n')
}

/** Returns the file without the lines whose values are named as those of the request as it came. */
export function withoutValues(text: string, remarks: readonly Remark[]): string {
  const lines = text.split('\n')
  for (const { line, whys } of remarks)
    if (whys.some(each => AS_SENT.test(each)) && typeof line.place === 'number') lines[line.place - 1] = ''
  return lines.join('\n')
}

/** A refusal whose routes are closed by a condition that it has from an `http-request allow`. */
const OF_ALLOWANCE = /^a negation within another: such routes answer 403/

/** The place of the first allowance of a section before a line; negative if there is none. */
function allowanceBefore(lines: readonly string[], at: number): number {
  const begin = lines.findLastIndex((each, index) => index < at && /^\S/.test(each))
  return lines.findIndex((each, index) => index > begin && index < at && /^\s*http-request allow/.test(each))
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
