import { isIP } from 'node:net'
import { type Check, isMap, list, map, oneOf, optional, text } from '../../config/check.js'
import { shown, Wrong } from '../../config/wrong.js'
import type { AddressRange, ForwardedConfig } from './config.js'

function addressRange(given: string): AddressRange | Wrong {
  const [, address = '', bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(given) ?? []
  const version = isIP(address)
  const most = version === 4 ? 32 : 128
  const prefix = bits === undefined ? most : Number(bits)
  if (version === 0 || prefix > most)
    return new Wrong(`${shown(given)} is no address or network (10.0.0.1, 10.0.0.0/8, fd00::/8)`)
  return { address, prefix, family: version === 4 ? 'ipv4' : 'ipv6' }
}

const headers = oneOf('off', 'x-forwarded', 'forwarded', 'both')
export const forwardedShape = {
  headers: optional(
    (value, place) => headers(value === false ? 'off' : value, place),
    'x-forwarded',
    '`off`, `x-forwarded` (`X-Forwarded-For`, `-Host`, `-Proto`), `forwarded` (RFC 7239) or `both`',
  ),
  trust: optional(
    list(text('an address', addressRange)),
    [],
    'clients (`10.0.0.0/8`) whose own headers are kept and appended to; those of all others are replaced',
  ),
}
const forwardedMap = map(forwardedShape)
/** `forwarded: both` is short for `forwarded: { headers: both }`. */
export const forwarded: Check<ForwardedConfig> = (value, place) =>
  isMap(value) ? forwardedMap(value, place) : asForwarded(headers(value === false ? 'off' : value, place))

function asForwarded(headers: ForwardedConfig['headers'] | undefined): ForwardedConfig | undefined {
  return headers && { headers, trust: [] }
}
