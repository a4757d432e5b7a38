import { wrongOption } from '../base/check-option.js'
import { type ListenerSpec, parseListenerSpec } from '../listeners/index.js'

export interface Named {
  readonly name: string
  readonly spec: ListenerSpec
}

/** A colon separates the names in LISTEN_FDNAMES. */
const NAME = /^[^:=\s]{1,255}$/

/**
 * Parses `NAME=ADDRESS` texts of the command line or the environment, where spaces separate them. Throws ERR_FDB_OPTION, ERR_FDB_SPEC.
 */
export function namedListeners(listen: string | readonly string[]): Named[] {
  const texts = typeof listen === 'string' ? listen.split(/\s+/) : listen.flatMap(text => text.split(/\s+/))
  return named(
    texts
      .filter(text => text !== '')
      .map(text => {
        const at = text.indexOf('=')
        return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)]
      }),
  )
}

export function named(entries: readonly (readonly string[])[]): Named[] {
  const names = new Set<string>()
  return entries.map(([name = '', address]) => {
    if (address === undefined || !NAME.test(name) || names.has(name))
      throw wrongOption(
        'listen',
        address === undefined ? name : `${name}=${address}`,
        'NAME=ADDRESS, each name once and without colon or space, for example web=tcp://0.0.0.0:8080',
      )
    names.add(name)
    return { name, spec: parseListenerSpec(address) }
  })
}
