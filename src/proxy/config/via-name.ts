import { InvalidValue, shown } from '../../config/check.js'

export function viaName(given: string): string | InvalidValue {
  return /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/.test(given)
    ? given
    : new InvalidValue(`${shown(given)} is not a name for Via (a token, at most 128 characters)`)
}
