import { shortJson } from '../../checks/place.js'
import { InvalidValue } from '../../checks/values.js'

/** Headers about framing and the connection: only the proxy sets them. */
const PROXY_HEADERS = new Set([
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

/** Checks the name of a header that the operator may set. */
export function headerName(text: string): string | InvalidValue {
  if (!/^[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}$/.test(text)) {
    return new InvalidValue(`${shortJson(text)} is not a header name (1 to 64 letters, digits and -)`)
  }
  if (PROXY_HEADERS.has(text.toLowerCase()))
    return new InvalidValue(`${shortJson(text)} is set by the proxy itself; choose another header`)
  return text
}
