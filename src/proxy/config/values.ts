import { isIP } from 'node:net'
import { InvalidValue, shown } from '../../config/check.js'
import type { AddressRange } from './config.js'

export function viaName(given: string): string | InvalidValue {
  return /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/.test(given)
    ? given
    : new InvalidValue(`${shown(given)} is not a name for Via (a token, at most 128 characters)`)
}

export function addressRange(given: string): AddressRange | InvalidValue {
  const [, address = '', bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(given) ?? []
  const version = isIP(address)
  const maxPrefix = version === 4 ? 32 : 128
  const prefix = bits === undefined ? maxPrefix : Number(bits)
  if (version === 0 || prefix > maxPrefix)
    return new InvalidValue(`${shown(given)} is not an address or network (10.0.0.1, 10.0.0.0/8, fd00::/8)`)
  return { address, prefix, family: version === 4 ? 'ipv4' : 'ipv6' }
}
