import { FdbError } from '../errors.js'
import { allOf, literal } from './conditions.js'
import type { Samples } from './haproxy-samples.js'
import type { Statement } from './haproxy-syntax.js'
import { commonHost, commonPath } from './matches.js'
import { networkOf } from './networks.js'
import { MOST_ROUTES } from './order.js'
import { patternsOf } from './patterns.js'

/** Requests of one kind; an absent key means any. */
export interface Condition {
  readonly host?: string
  readonly path?: string
  /** The conditions say the path too. */
  readonly exact?: true
  readonly when: readonly string[]
  /** Whether the listener speaks TLS. */
  readonly secure?: boolean
  readonly port?: string
  /** Requests that are excepted. */
  readonly except?: readonly Condition[]
  /** The parts that cannot be said. */
  readonly unknown?: readonly Unknown[]
}

/** A part that cannot be said; `negated` if the requests must not fulfil it. `wide`: the rest holds for all requests that fulfil it, and for others. */
export interface Unknown {
  readonly text: string
  readonly negated: boolean
  readonly wide?: boolean
}

/** Alternatives: one of them must hold. */
export interface Parsed {
  readonly any: readonly Condition[]
  /** A difference to what HAProxy does; empty if there is none. */
  readonly near: string
}

export const ALWAYS: Parsed = { any: [{ when: [] }], near: '' }

/** The named conditions (`acl`) of a section. */
export class Conditions {
  readonly #named = new Map<string, string[][]>()
  readonly #samples: Samples
  #isOfAnswer = false

  constructor(samples: Samples) {
    this.#samples = samples
  }

  /** Adds an `acl`: several with one name are alternatives. */
  add({ words }: Statement): void {
    const [, name = '', ...test] = words
    this.#named.set(name, [...(this.#named.get(name) ?? []), test])
  }

  /** The only test behind `if`, as `src_conn_cur gt 10`; null if there are several, or another word than `if`. */
  only(words: readonly string[]): string | null {
    const at = words.indexOf('if')
    const rest = at < 0 ? [] : words.slice(at + 1)
    if (rest[0] === '{' && rest.at(-1) === '}' && rest.indexOf('}') === rest.length - 1)
      return rest.slice(1, -1).join(' ')
    const tests = rest.length === 1 ? this.#named.get(rest[0]!) : undefined
    return tests?.length === 1 ? tests[0]!.join(' ') : null
  }

  /** Parses what is behind `if` or `unless`; without either, everything matches. */
  parse(words: readonly string[], where: Statement): Parsed {
    const at = words.findIndex(word => word === 'if' || word === 'unless')
    if (at < 0) return ALWAYS
    this.#isOfAnswer = where.words[0] === 'http-response'
    const terms: string[][][] = [[]]
    for (const { word, test } of this.#terms(words.slice(at + 1), where)) {
      if (word === 'or' || word === '||') terms.push([])
      else terms.at(-1)!.push([word, ...(test ?? [])])
    }
    const all = terms.map(term => this.#conjunction(term))
    const parsed = eitherOf(all)
    return words[at] === 'if' ? parsed : negationOf(parsed)
  }

  *#terms(words: readonly string[], where: Statement): Generator<{ word: string; test?: string[] }> {
    for (let at = 0; at < words.length; at += 1) {
      const word = words[at]!
      if (word !== '{' && word !== '!{') {
        if (word === '!') yield { word: `!${words[((at += 1))] ?? ''}` }
        else yield { word }
        continue
      }
      const end = words.indexOf('}', at)
      if (end < 0)
        throw new FdbError(
          'ERR_FDB_CONFIG',
          `${where.file}:${where.place}: the condition does not end: a } is missing`,
        )
      yield { word: word === '{' ? '{}' : '!{}', test: words.slice(at + 1, end) }
      at = end
    }
  }

  #conjunction(terms: readonly (readonly string[])[]): Parsed {
    let whole: Parsed = ALWAYS
    for (const [word = '', ...test] of terms) {
      const negated = word.startsWith('!')
      const name = negated ? word.slice(1) : word
      const tests = name === '{}' ? [test] : (this.#named.get(name) ?? [[name]])
      const either = eitherOf(tests.map(each => this.#atom(each)))
      whole = both(whole, negated ? negationOf(either) : either)
    }
    return whole
  }

  #atom(test: readonly string[]): Parsed {
    // The request itself is gone when HAProxy has its answer.
    if (this.#isOfAnswer && !/^(?:var\(txn\.|src$|ssl_fc$|dst_port$|always_)/.test(test[0] ?? ''))
      return { any: [lost(test.join(' '))], near: '' }
    const known = this.#samples.known(test)
    if (known !== null) return atomOf(known, test)
    return { any: [lost(`${test.join(' ')}${CHANGED}`)], near: '' }
  }
}

/** Behind the text of a test of what an earlier rule has changed. */
const CHANGED = ' of the changed request'

function eitherOf(all: readonly Parsed[]): Parsed {
  if (all.some(isUndecided)) return UNDECIDED
  return { any: all.flatMap(({ any }) => any), near: all.find(({ near }) => near !== '')?.near ?? '' }
}

/** The condition that holds if both do. */
export function both(a: Parsed, b: Parsed): Parsed {
  if (isUndecided(a) || isUndecided(b)) return UNDECIDED
  // Negations of negations multiply them: a few lines of a file can make millions.
  return product(a, b, MOST_ALTERNATIVES) ?? UNDECIDED
}

/** The same for conditions of which each part can be said; null if there are too many alternatives. */
export function bothSaid(a: Parsed, b: Parsed): Parsed | null {
  return a === ALWAYS ? b : b === ALWAYS ? a : product(a, b, MOST_ROUTES)
}

function product(a: Parsed, b: Parsed, most: number): Parsed | null {
  const found = new Map<string, Condition>()
  for (const one of a.any)
    for (const other of b.any) {
      const each = merged(one, other)
      if (each !== null) found.set(JSON.stringify(each), each)
      if (found.size > most) return null
    }
  return { any: [...found.values()], near: a.near === '' ? b.near : a.near }
}

const MOST_ALTERNATIVES = 200
/** In place of a condition with too many alternatives. */
const UNDECIDED: Parsed = {
  any: [
    {
      when: [],
      unknown: [{ text: `a condition with more than ${MOST_ALTERNATIVES} alternatives`, negated: true }],
    },
  ],
  near: '',
}
const isUndecided = (parsed: Parsed) => parsed === UNDECIDED

/** Null if no request fulfils both. */
function merged(a: Condition, b: Condition): Condition | null {
  const pick = (key: 'secure' | 'port') =>
    a[key] === undefined || b[key] === undefined || a[key] === b[key] ? [a[key] ?? b[key]] : null
  const [secure, port] = [pick('secure'), pick('port')]
  const host = commonHost(a.host ?? '*', b.host ?? '*')
  const path = commonPath(a.path ?? '/', b.path ?? '/')
  const when = allOf([...a.when, ...b.when])
  if (host === null || secure === null || port === null || path === null || when === null) return null
  // A path below it does not fulfil the other one.
  if ([a, b].some(each => each.exact && each.path !== path)) return null
  const unknown = [...(a.unknown ?? []), ...(b.unknown ?? [])]
  return {
    when,
    ...(unknown.length > 0 && { unknown }),
    ...(host !== '*' && { host }),
    ...(secure[0] !== undefined && { secure: secure[0] as boolean }),
    ...(port[0] !== undefined && { port: port[0] as string }),
    ...((path !== '/' || a.path !== undefined || b.path !== undefined) && { path }),
    ...((a.exact || b.exact) && { exact: true as const }),
    ...((a.except ?? b.except) !== undefined && { except: [...(a.except ?? []), ...(b.except ?? [])] }),
  }
}

/** The part that cannot be said by which a condition is judged: the one for which most requests are refused. */
export function heaviest({ unknown = [] }: Condition): Unknown | undefined {
  const weight = ({ negated, wide }: Unknown) => (negated ? 2 : wide ? 0 : 1)
  return unknown.toSorted((one, other) => weight(other) - weight(one))[0]
}

/** HAProxy compares each value of a header, and each cookie and parameter of a name; the proxy the whole header, and the first one. */
export const SEVERAL = 'of several values not each is compared'
const SEVERAL_REFUSED = 'several values are compared as one'

/** The negation of alternatives: those about hosts and ports are excepted, all others can be said. */
export function negationOf(parsed: Parsed): Parsed {
  if (isUndecided(parsed)) return UNDECIDED
  const { any, near } = parsed
  const other = near === SEVERAL ? SEVERAL_REFUSED : near === SEVERAL_REFUSED ? SEVERAL : near
  let whole: Parsed = { ...ALWAYS, near: other }
  for (const { except = [], unknown = [], ...known } of any) {
    const { when, secure, host, port } = known
    const others: readonly Condition[] =
      host === undefined && port === undefined
        ? [
            ...when.map(one => ({ when: [one.startsWith('!') ? one.slice(1) : `!${one}`] })),
            ...(secure === undefined ? [] : [{ when: [], secure: !secure }]),
          ]
        : [{ when: [], except: [known] }]
    const rest = unknown.map(({ text, negated }) => lost(text, !negated))
    whole = both(whole, { any: [...others, ...except, ...rest], near: '' })
  }
  return whole
}

/** A condition that cannot be said. */
const lost = (text: string, negated = false): Condition => ({ when: [], unknown: [{ text, negated }] })

/** One test, as `path_beg /api`, without the variable that it may be written with. */
function atomOf(test: readonly string[], asWritten: readonly string[]): Parsed {
  const [fetch = '', ...rest] = test
  const [written = ''] = asWritten
  const text = asWritten.join(' ')
  const match = rest.indexOf('-m') >= 0 ? rest[rest.indexOf('-m') + 1] : null
  const values = rest.filter(
    (word, at) => !/^-(?:i|n|m|M|u)$/.test(word) && rest[at - 1] !== '-m' && word !== '--',
  )
  const unknown: Parsed = { any: [lost(text)], near: '' }
  if (rest.includes('-f')) return unknown
  const [, kind = '', argument = ''] =
    /^(?:req\.|capture\.req\.)?([\w.]+?)(?:\(([^)]*)\))?$/.exec(fetch) ?? []
  const [, base = '', how = match ?? ''] = /^(\w+?)(?:_(beg|end|dom|dir|reg|sub|len|str))?$/.exec(kind) ?? []
  const each = (of: (value: string) => readonly Condition[] | Condition | null, near = ''): Parsed => {
    if (values.length === 0) return unknown
    return { any: values.flatMap(value => of(value) ?? lost(`${written} ${value}`)), near }
  }
  if (/^(?:TRUE|always_true|HTTP)$/.test(fetch)) return ALWAYS
  if (/^(?:FALSE|always_false)$/.test(fetch)) return { any: [], near: '' }
  if (kind === 'ssl_fc') {
    const wanted = values[0] !== '0' && values[0] !== 'false'
    return { any: [{ when: [], secure: wanted }], near: '' }
  }
  if (kind === 'src' && fetch === 'src') {
    const networks = values.map(networkOf)
    return values.length === 0 || networks.includes(null)
      ? unknown
      : { any: [{ when: [`address=${[...new Set(networks)].sort().join('|')}`] }], near: '' }
  }
  if (kind === 'dst_port') return each(port => (/^\d+$/.test(port) ? { when: [], port } : null))
  const [, named] = /^METH_([A-Z]+)$/.exec(fetch) ?? []
  if (base === 'method' || named !== undefined) {
    const methods = named === undefined ? values : named === 'GET' ? ['GET', 'HEAD'] : [named]
    return methods.length === 0 || !methods.every(method => /^[A-Z0-9_-]{1,32}$/.test(method))
      ? unknown
      : { any: [{ when: [`method=${[...new Set(methods)].sort().join('|')}`] }], near: '' }
  }
  if ((base === 'hdr' || base === 'fhdr') && argument.toLowerCase().replace(/,.*/, '') === 'host')
    return each(host => hostsOf(host, how), how === 'dom' ? 'by whole names' : '')
  if (kind === 'ssl_fc_sni' || kind === 'req.ssl_sni')
    return each(host => hostsOf(host, how), 'by the host of the request')
  if (base === 'path') return ofPath(written, how, values, rest.includes('-i'))
  if (base === 'url' && how === 'beg' && values.every(value => /^\/[^?]*$/.test(value)))
    return { ...ofPath(written, how, values, rest.includes('-i')), near: 'by the path' }
  if (base === 'url' || base === 'base') return unknown
  const what =
    base === 'hdr' || base === 'fhdr'
      ? `header:${argument.replace(/,.*/, '')}`
      : base === 'url_param' || base === 'urlp'
        ? `query:${argument.replace(/,.*/, '')}`
        : base === 'cook' || base === 'cookie'
          ? `cookie:${argument}`
          : null
  if (what === null || argument === '') return unknown
  if (how === 'found') return { any: [{ when: [what] }], near: '' }
  if (how !== '' && how !== 'str' && how !== 'beg') return unknown
  const near = rest.includes('-i') ? 'upper and lower case differ' : SEVERAL
  return each(
    value => (/[*|]/.test(value) ? null : { when: [`${what}=${value}${how === 'beg' ? '*' : ''}`] }),
    near,
  )
}

function hostsOf(given: string, how: string): readonly Condition[] | null {
  const host = given.toLowerCase().replace(/:\d+$/, '')
  if (how === 'end' && /^\.[\w.-]+$/.test(host)) return [{ when: [], host: `*${host}` }]
  if (!/^(?:str|dom|)$/.test(how) || !/^[\w.-]+$/.test(host)) return null
  return [{ when: [], host }, ...(how === 'dom' ? [{ when: [], host: `*.${host}` }] : [])]
}

/** A test of the path, by its way of comparing. */
function ofPath(fetch: string, how: string, values: readonly string[], anycase: boolean): Parsed {
  const name = anycase ? 'ipath' : 'path'
  if (values.length === 0) return { any: [lost(fetch)], near: '' }
  const any = values.flatMap((value): readonly Condition[] => {
    const text = `${fetch} ${value}`
    if ((how === '' || how === 'str') && !anycase) return [exactPath(value) ?? lost(text)]
    const expression = how === 'reg' ? value : expressionOf(how, value)
    if (expression === null) return [lost(text)]
    const said = patternsOf(expression).map(({ glob, exact, withoutSlash }): Condition => {
      const when = glob === '/*' ? [] : [`${name}=${glob}`, ...(exact && withoutSlash ? ['!path=*/'] : [])]
      return exact ? { when } : { when, unknown: [{ text, negated: false, wide: true }] }
    })
    // The proxy compares paths without these, which HAProxy sees.
    return /[%;]|\/\//.test(value) ? [...said, lost(text)] : said
  })
  return { any, near: '' }
}

/** The regular expression of `path_end` and its like; null for others. */
function expressionOf(how: string, value: string): string | null {
  const text = literal(value)
  const all: Readonly<Record<string, string>> = {
    beg: `^${text}`,
    end: `${text}$`,
    sub: text,
    str: `^${text}$`,
    '': `^${text}$`,
    dir: `/${text.replaceAll(/^\/+|\/+$/g, '')}(/|$)`,
  }
  return all[how] ?? null
}

function exactPath(text: string): Condition | null {
  const path = text === '/' ? '/' : text.replace(/\/+$/, '')
  if (!/^\/[^\s%;*?#]*$/.test(path) || path.includes('//')) return null
  const strict = path === text && path !== '/' ? ['!path=*/'] : []
  return { when: [`path=${text}`, ...strict], path, exact: true }
}

/** The requests that may fulfil conditions that cannot be said, unless they are `kept`: what their backend refuses must be refused. */
export function withoutUnknown({ any }: Parsed, kept: Parsed | null): Parsed {
  const lost = any.filter(({ unknown }) => unknown !== undefined)
  const isKept = kept !== null && kept.any.length === any.length
  return { any: isKept ? [] : lost.map(({ unknown: _, ...each }) => each), near: '' }
}

/** Whether a condition names some addresses, and asks for nothing else. */
export const isOfAddresses = ({ when, ...others }: Condition) =>
  when.length > 0 && when.every(each => each.startsWith('address=')) && Object.keys(others).length === 0
