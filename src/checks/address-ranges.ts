import { BlockList, isIP } from 'node:net'
import { isIPv6 } from '../base/lazy.js'
import { shortJson } from './place.js'
import { InvalidValue } from './values.js'

/** A range for `net.BlockList`. */
export interface AddressRange {
  address: string
  prefix: number
  family: 'ipv4' | 'ipv6'
}

export function addressRange(given: string): AddressRange | InvalidValue {
  const [, address = '', bits] = /^([^/]*)(?:\/(\d{1,3}))?$/.exec(given) ?? []
  const version = isIP(address)
  const maxPrefix = version === 4 ? 32 : 128
  const prefix = bits === undefined ? maxPrefix : Number(bits)
  if (version === 0 || prefix > maxPrefix)
    return new InvalidValue(
      `${shortJson(given)} is not an address or network (10.0.0.1, 10.0.0.0/8, fd00::/8)`,
    )
  return { address, prefix, family: version === 4 ? 'ipv4' : 'ipv6' }
}

/** Returns a function that reports whether an IP address is in one of the ranges. */
export function isIn(ranges: readonly AddressRange[]): (address: string) => boolean {
  const list = new BlockList()
  for (const { address, prefix, family } of ranges) list.addSubnet(address, prefix, family)
  return address => address !== '' && list.check(address, isIPv6(address) ? 'ipv6' : 'ipv4')
}
