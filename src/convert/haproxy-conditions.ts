import { FdbError } from '../errors.js'
import { allOf } from './conditions.js'
import type { Statement } from './haproxy-syntax.js'

/** Requests of one kind; an absent key means any. */
export interface Condition {
  readonly host?: string
  readonly path?: string
  readonly when: readonly string[]
  /** Whether the listener speaks TLS. */
  readonly secure?: boolean
  readonly port?: string
  /** Requests that are excepted. */
  readonly except?: readonly Condition[]
}

/** Alternatives: one of them must hold. `unknown`: a part that cannot be said; `negated` if that part is negated. */
export interface Parsed {
  readonly any: readonly Condition[]
  readonly unknown: null | { readonly text: string; readonly negated: boolean }
  /** A difference to what HAProxy does; empty if there is none. */
  readonly near: string
}

const ALWAYS: Parsed = { any: [{ when: [] }], unknown: null, near: '' }

/** The named conditions (`acl`) of a section. */
export class Conditions {
  readonly #named = new Map<string, string[][]>()

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
    const terms: string[][][] = [[]]
    for (const { word, test } of this.#terms(words.slice(at + 1), where)) {
      if (word === 'or' || word === '||') terms.push([])
      else terms.at(-1)!.push([word, ...(test ?? [])])
    }
    const all = terms.map(term => this.#conjunction(term))
    const parsed: Parsed = {
      any: all.flatMap(({ any }) => any),
      unknown: all.find(({ unknown }) => unknown !== null)?.unknown ?? null,
      near: all.find(({ near }) => near !== '')?.near ?? '',
    }
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
      const parsed = tests.map(atomOf)
      const either: Parsed = {
        any: parsed.flatMap(({ any }) => any),
        unknown: parsed.find(({ unknown }) => unknown !== null)?.unknown ?? null,
        near: parsed.find(({ near }) => near !== '')?.near ?? '',
      }
      whole = both(whole, negated ? negationOf(either) : either)
    }
    return whole
  }
}

function both(a: Parsed, b: Parsed): Parsed {
  const any = a.any.flatMap(one => b.any.flatMap(other => merged(one, other) ?? []))
  return { any, unknown: a.unknown ?? b.unknown, near: a.near === '' ? b.near : a.near }
}

/** Null if no request fulfils both. */
function merged(a: Condition, b: Condition): Condition | null {
  const pick = (key: 'host' | 'secure' | 'port') =>
    a[key] === undefined || b[key] === undefined || a[key] === b[key] ? [a[key] ?? b[key]] : null
  const [host, secure, port] = [pick('host'), pick('secure'), pick('port')]
  const path = longerPath(a.path, b.path)
  const when = allOf([...a.when, ...b.when])
  if (host === null || secure === null || port === null || path === null || when === null) return null
  return {
    when,
    ...(host[0] !== undefined && { host: host[0] as string }),
    ...(secure[0] !== undefined && { secure: secure[0] as boolean }),
    ...(port[0] !== undefined && { port: port[0] as string }),
    ...(path !== undefined && { path }),
    ...((a.except ?? b.except) !== undefined && { except: [...(a.except ?? []), ...(b.except ?? [])] }),
  }
}

function longerPath(a: string | undefined, b: string | undefined): string | undefined | null {
  if (a === undefined || b === undefined) return a ?? b
  if (a === b || a.startsWith(`${b}/`)) return a
  return b.startsWith(`${a}/`) ? b : null
}

/** The negation of alternatives: those about headers, parameters, cookies, methods or TLS can be said, all others are excepted. */
function negationOf({ any, unknown, near }: Parsed): Parsed {
  const nested = any.some(each => each.except !== undefined)
  const blocked = unknown ?? (nested ? { text: 'a negation within another', negated: false } : null)
  if (blocked !== null)
    return { any: [{ when: [] }], unknown: { ...blocked, negated: !blocked.negated }, near }
  const plain = any.every(
    each => each.host === undefined && each.path === undefined && each.port === undefined,
  )
  if (!plain) return { any: [{ when: [], except: any }], unknown: null, near }
  let whole: Parsed = { ...ALWAYS, near }
  for (const { when, secure } of any) {
    const parts: Condition[] = when.map(each => ({
      when: [each.startsWith('!') ? each.slice(1) : `!${each}`],
    }))
    if (secure !== undefined) parts.push({ when: [], secure: !secure })
    whole = both(whole, { any: parts, unknown: null, near: '' })
  }
  return whole
}

/** One test, as `path_beg /api`. */
function atomOf(test: readonly string[]): Parsed {
  const [fetch = '', ...rest] = test
  const text = test.join(' ')
  const match = rest.indexOf('-m') >= 0 ? rest[rest.indexOf('-m') + 1] : null
  const values = rest.filter(
    (word, at) => !/^-(?:i|n|m|M|u)$/.test(word) && rest[at - 1] !== '-m' && word !== '--',
  )
  const unknown: Parsed = { any: [{ when: [] }], unknown: { text, negated: false }, near: '' }
  if (rest.includes('-f')) return unknown
  const [, kind = '', argument = ''] =
    /^(?:req\.|capture\.req\.)?([\w.]+?)(?:\(([^)]*)\))?$/.exec(fetch) ?? []
  const [, base = '', how = match ?? ''] = /^(\w+?)(?:_(beg|end|dom|dir|reg|sub|len|str))?$/.exec(kind) ?? []
  const each = (of: (value: string) => Condition | null, near = ''): Parsed => {
    const any = values.map(of)
    return any.includes(null) || any.length === 0 ? unknown : { any: any as Condition[], unknown: null, near }
  }
  if (/^(?:TRUE|always_true|HTTP)$/.test(fetch)) return ALWAYS
  if (kind === 'ssl_fc' || kind === 'ssl_fc_is_resumed') {
    const wanted = values[0] !== '0' && values[0] !== 'false'
    return { any: [{ when: [], secure: wanted }], unknown: null, near: '' }
  }
  if (kind === 'dst_port') return each(port => (/^\d+$/.test(port) ? { when: [], port } : null))
  if (base === 'method' || fetch === 'METH_GET') {
    const methods = fetch === 'METH_GET' ? ['GET', 'HEAD'] : values
    return methods.length === 0
      ? unknown
      : { any: [{ when: [`method=${methods.join('|')}`] }], unknown: null, near: '' }
  }
  if ((base === 'hdr' || base === 'fhdr') && argument.toLowerCase().replace(/,.*/, '') === 'host')
    return each(host => hostOf(host, how))
  if (kind === 'ssl_fc_sni' || kind === 'req.ssl_sni')
    return each(host => hostOf(host, how), 'by the host of the request')
  if (base === 'path' || base === 'url' || base === 'base') {
    const whole = how === '' || how === 'str'
    if (how !== 'beg' && how !== 'dir' && !whole) return unknown
    const near = whole
      ? 'paths take what is below them too'
      : values.every(value => value.endsWith('/'))
        ? ''
        : 'by whole segments'
    return each(value => pathCondition(value), near)
  }
  const what =
    base === 'hdr' || base === 'fhdr'
      ? `header:${argument.replace(/,.*/, '')}`
      : base === 'url_param' || base === 'urlp'
        ? `query:${argument.replace(/,.*/, '')}`
        : base === 'cook' || base === 'cookie'
          ? `cookie:${argument}`
          : null
  if (what === null || argument === '') return unknown
  if (how === 'found') return { any: [{ when: [what] }], unknown: null, near: '' }
  if (how !== '' && how !== 'str' && how !== 'beg') return unknown
  const near = rest.includes('-i') ? 'upper and lower case differ' : ''
  return each(
    value => (/[*|]/.test(value) ? null : { when: [`${what}=${value}${how === 'beg' ? '*' : ''}`] }),
    near,
  )
}

function hostOf(given: string, how: string): Condition | null {
  const host = given.toLowerCase().replace(/:\d+$/, '')
  if (how === 'end' && /^\.[\w.-]+$/.test(host)) return { when: [], host: `*${host}` }
  return /^(?:str|dom|)$/.test(how) && /^[\w.-]+$/.test(host) ? { when: [], host } : null
}

function pathCondition(text: string): Condition | null {
  const path = text === '/' ? '/' : text.replace(/\/+$/, '')
  return /^\/[^\s%;*?#]*$/.test(path) ? { when: [], ...(path !== '/' && { path }) } : null
}
