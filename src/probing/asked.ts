/** What operators write of a question: the same words for `fd-broker run` and for the proxy. */
export type Asked =
  /** It answers a GET with 2xx or 3xx; `url` begins with `/`: through a socket that this version alone has. */
  | { readonly kind: 'http'; readonly url: string }
  /** It takes a connection. */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  /** `sh -c` of it ends with 0. */
  | { readonly kind: 'command'; readonly text: string }

/** Each gives null for what is none. */
export const ASKED = {
  /** `/health`, `http://127.0.0.1/health`, and what is left of the latter behind `http:`. */
  http(rest: string): Asked | null {
    if (rest.startsWith('/') && !rest.startsWith('//')) return { kind: 'http', url: rest }
    const url = rest.startsWith('//') ? `http:${rest}` : rest
    return URL.canParse(url) && new URL(url).protocol === 'http:' ? { kind: 'http', url } : null
  },

  /** `127.0.0.1:80`, `[::1]:80`, with or without `//` before it. */
  tcp(rest: string): Asked | null {
    const address = rest.startsWith('//') ? rest.slice(2) : rest
    const [, v6, plain, digits] = /^(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})$/.exec(address) ?? []
    const port = Number(digits)
    const host = v6 ?? plain
    return host === undefined || !(port > 0 && port < 65_536) ? null : { kind: 'tcp', host, port }
  },

  command(text: string): Asked | null {
    return text.trim() === '' ? null : { kind: 'command', text }
  },
} as const
