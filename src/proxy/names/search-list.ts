/** The search list of a resolv.conf (resolv.conf(5)). */
export interface SearchList {
  readonly domains: readonly string[]
  /** A name with so many dots is asked for as it is first. */
  readonly dots: number
}

const MOST_DOMAINS = 6

export function searchList(text: string): SearchList {
  let domains: string[] = []
  let dots = 1
  for (const line of text.split('\n')) {
    const [key, ...values] = line
      .replace(/[#;].*/, '')
      .trim()
      .split(/\s+/)
    // The last line of these two counts.
    if (key === 'search') domains = values
    else if (key === 'domain') domains = values.slice(0, 1)
    else if (key === 'options') {
      const given = values.map(value => /^ndots:(\d+)$/.exec(value)?.[1]).find(value => value !== undefined)
      if (given !== undefined) dots = Math.min(15, Number(given))
    }
  }
  const spelled = domains
    .map(domain => domain.toLowerCase().replace(/\.$/, ''))
    .filter(domain => domain !== '')
  return { domains: spelled.slice(0, MOST_DOMAINS), dots }
}

/** Returns what the name servers are asked for, one after the other, until one of these names has an address. */
export function candidates(name: string, { domains, dots }: SearchList): string[] {
  const searched = domains.map(domain => `${name}.${domain}`)
  return name.split('.').length - 1 >= dots ? [name, ...searched] : [...searched, name]
}
