import { shown, Wrong } from '../../config/wrong.js'

/** Fields that belong to one connection, or that say where a message ends: the proxy alone sets them. */
const OWN = new Set([
  'connection',
  'content-length',
  'expect',
  'host',
  'keep-alive',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

/** The name of a response header that the operator may set. Its case is kept. */
export function headerName(text: string): string | Wrong {
  if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}$/.test(text)) {
    return new Wrong(`${shown(text)} is no header name (1 to 64 letters, digits and -)`)
  }
  if (OWN.has(text.toLowerCase()))
    return new Wrong(`${shown(text)} is set by the proxy itself; choose another header`)
  return text
}

export function headerValue(text: string): string | Wrong {
  if (text.length > 4096) return new Wrong(`a header value of ${text.length} characters; at most 4096`)
  if (/^[\t\x20-\x7e]*$/.test(text) && text.trim() === text) return text
  return new Wrong(`${shown(text)} is no header value (visible ASCII, no line break, no blank at either end)`)
}
