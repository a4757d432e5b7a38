import type { Statement } from './haproxy-syntax.js'

const OF_REQUESTS = /^(?:http-request|tcp-request)$/
/** The parts of a request that an action of `http-request` changes. */
const CHANGES: readonly (readonly [RegExp, readonly string[]])[] = [
  [/^(?:set|replace)-path$/, ['path']],
  [/^(?:(?:set|replace)-pathq|replace-uri|normalize-uri)$/, ['path', 'query']],
  [/^set-uri$/, ['path', 'query', 'header:host']],
  [/^set-query$/, ['query']],
  [/^set-method$/, ['method']],
  [/^set-src(?:-port)?$/, ['source']],
  [/^set-dst(?:-port)?$/, ['destination']],
]
/** The parts of a request that a fetch reads, by its name without `req.` and the way of comparing. */
const READS: readonly (readonly [RegExp, readonly string[]])[] = [
  [/^path$/, ['path']],
  [/^(?:pathq|url|uri)$/, ['path', 'query']],
  [/^base$/, ['path', 'query', 'header:host']],
  [/^(?:query|urlp|url_param)$/, ['query']],
  [/^(?:method|METH_[A-Z]+)$/, ['method']],
  [/^src$/, ['source']],
  [/^dst(?:_port)?$/, ['destination']],
  [/^cook(?:ie)?$/, ['header:cookie']],
]

/** The parts of requests that the conditions of a section read: HAProxy judges them behind the changes that earlier rules have made, the proxy before them. */
export class Samples {
  /** The samples that variables stand for. */
  readonly #variables = new Map<string, string>()
  readonly #changed = new Set<string>()

  /** Returns samples for a backend: the same, until its own rules change some. */
  copy(): Samples {
    const copy = new Samples()
    for (const [name, sample] of this.#variables) copy.#variables.set(name, sample)
    for (const each of this.#changed) copy.#changed.add(each)
    return copy
  }

  /** Takes note of the variable that a statement sets, and of the parts that it changes. Returns whether a variable is known now. */
  take({ words }: Statement): boolean {
    const [first = '', ...given] = words
    if (!OF_REQUESTS.test(first)) return false
    const [action = '', ...rest] = first === 'tcp-request' ? given.slice(1) : given
    const name = /^(?:un)?set-var(?:-fmt)?\(([\w.]+)/.exec(action)?.[1]
    if (name !== undefined) return this.#variable(name, action, rest)
    const [header = '', ...others] = rest
    const end = others.findIndex(word => word === 'if' || word === 'unless')
    const options = end < 0 ? others : others.slice(0, end)
    if (/^(?:(?:set|add|del|replace)-header|replace-value)$/.test(action))
      this.#changed.add(options.includes('-m') ? 'header:*' : `header:${header.toLowerCase()}`)
    for (const each of CHANGES.find(([pattern]) => pattern.test(action))?.[1] ?? []) this.#changed.add(each)
    return false
  }

  #variable(name: string, action: string, [sample = '', ...rest]: readonly string[]): boolean {
    const isPlain = /^(?:path|method|(?:req\.)?hdr\([\w-]+\)|src)$/.test(sample)
    const isKnown = isPlain && rest.length === 0 && action.startsWith('set-var(') && !this.isChanged(sample)
    if (isKnown) this.#variables.set(name, sample)
    else this.#variables.delete(name)
    return isKnown
  }

  /** The test with the sample that its variable stands for; null if it reads a part that is changed. */
  known(test: readonly string[]): readonly string[] | null {
    const [first = '', ...rest] = test
    const name = /^var\(([\w.]+)\)$/.exec(first)?.[1]
    const sample = name === undefined ? undefined : this.#variables.get(name)
    if (sample !== undefined) return [sample, ...rest]
    return this.isChanged(first) ? null : test
  }

  /** Whether a fetch, as `path_beg`, reads a part that is changed. */
  isChanged(fetch: string): boolean {
    const [, kind = '', argument = ''] = /^(?:req\.)?([\w.]+)(?:\(([^),]*))?/.exec(fetch) ?? []
    const name = kind.replace(/_(?:beg|end|dom|dir|reg|sub|len|str)$/, '')
    if (/^f?hdr$/.test(name)) return this.#areChanged([`header:${argument.toLowerCase()}`])
    return this.#areChanged(READS.find(([pattern]) => pattern.test(name))?.[1] ?? [])
  }

  /** Whether the value of a header, or the target of a redirect, has a part that is changed. */
  tellsChanged({ text }: Statement): boolean {
    const [, kind] = /^(?:http-request )?redirect (scheme|prefix)\b/.exec(text) ?? []
    if (kind !== undefined && this.#areChanged(['path', 'query'])) return true
    if (kind === 'scheme' && this.#areChanged(['header:host'])) return true
    return [...text.matchAll(/%\[([^\]]*)\]/g)].some(([, sample = '']) => this.isChanged(sample))
  }

  #areChanged(parts: readonly string[]): boolean {
    return parts.some(
      each => this.#changed.has(each) || (each.startsWith('header:') && this.#changed.has('header:*')),
    )
  }
}
