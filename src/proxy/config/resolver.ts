import { isIP } from 'node:net'
import { list, optional, text } from '../../config/check.js'
import { duration } from '../../config/quantity.js'
import { shown, Wrong } from '../../config/wrong.js'

const MOST_SERVERS = 16

function nameServer(given: string): string | Wrong {
  const [, v6, v4, port] = /^(?:\[([^\]]*)\]|([^:[\]]*))(?::(\d{1,5}))?$/.exec(given) ?? []
  const whole = isIP(given) !== 0 || isIP(v6 ?? '') === 6 || isIP(v4 ?? '') === 4
  const possible = port === undefined || (Number(port) >= 1 && Number(port) <= 65_535)
  if (whole && possible) return given
  return new Wrong(`${shown(given)} is no address of a name server (10.0.0.2, 10.0.0.2:5353, [fd00::2]:53)`)
}

export const resolverShape = {
  servers: optional(
    list(text('the address of a name server', nameServer), { most: MOST_SERVERS }),
    [],
    '`10.0.0.2`, `10.0.0.2:5353`, `[fd00::2]:53`; none: those of `/etc/resolv.conf`',
  ),
  timeout: optional(duration(1), '5s', 'for one name'),
}
