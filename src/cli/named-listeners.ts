import { wrongOption } from '../checks/place.js'
import { parseListenerSpec } from '../listeners/index.js'
import type { NamedListener } from '../os/foreign-listeners.js'

/** A colon separates the names in LISTEN_FDNAMES. */
export function isListenerName(name: string): boolean {
  return /^[^:=\s]{1,255}$/.test(name)
}

/** The space before a further listener: a path may have spaces too. */
const BETWEEN = /\s+(?=[^:=\s]+=(?:tcp|udp|unix):)/

/** Parses `NAME=ADDRESS` texts of the command line or the environment, where spaces separate them. Throws ERR_FDB_OPTION, ERR_FDB_SPEC. */
export function parseListeners(listen: string | readonly string[]): NamedListener[] {
  return checkedListeners(
    [listen]
      .flat()
      .flatMap(text => text.trim().split(BETWEEN))
      .filter(text => text !== '')
      .map(text => {
        const at = text.indexOf('=')
        return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)]
      }),
  )
}

function checkedListeners(entries: readonly (readonly string[])[]): NamedListener[] {
  const names = new Set<string>()
  return entries.map(([name = '', address]) => {
    if (address === undefined || !isListenerName(name) || names.has(name))
      throw wrongOption(
        'listen',
        address === undefined ? name : `${name}=${address}`,
        'NAME=ADDRESS, each name once and without colon or space, for example web=tcp://0.0.0.0:8080',
      )
    names.add(name)
    return { name, spec: parseListenerSpec(address) }
  })
}
