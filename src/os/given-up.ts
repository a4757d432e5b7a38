import { FdbError } from '../errors.js'
import { WITHOUT } from './command-line.js'

/** A listener as `status` reports it. */
export interface NamedAddress {
  readonly name: string
  /** `tcp://127.0.0.1:8080`, `unix:/run/x.sock`; with the port that the kernel has chosen. */
  readonly address: string
}

/** Returns the addresses that the variable names: separated by commas, or, as {@link givingUp} writes them, ended by line breaks. */
export function givenUp({ [WITHOUT]: text = '' }: Readonly<NodeJS.ProcessEnv>): string[] {
  const words = text.split(text.includes('\n') ? '\n' : ',')
  return words.map(word => word.trim()).filter(word => word !== '')
}

/** Returns the variable for the process that gives these addresses up. Without any it is removed, so that no version passes it on. */
export function givingUp(addresses: readonly string[]): NodeJS.ProcessEnv {
  return { [WITHOUT]: addresses.length === 0 ? undefined : addresses.map(text => `${text}\n`).join('') }
}

/** Whether the text that an operator has given means this listener: its name, its address, `host:port`, a port, or a Unix path. */
export function means(text: string, { name, address }: NamedAddress): boolean {
  if (text === '') return false
  if (text === name || text === address) return true
  return [name, address].some(known => {
    const [, place = ''] = /^(?:tcp:\/\/|unix:)(.+)$/.exec(known) ?? []
    return (
      text === place || (/^[1-9]\d*$/.test(text) && /^tcp:.*:\d+$/.test(known) && place.endsWith(`:${text}`))
    )
  })
}

/** Returns the text that names a listener for an operator. A Unix path may have been bound under another one, which the kernel reports. */
export function shownAddress({ name, address }: NamedAddress): string {
  return name.startsWith('unix:') ? name : address
}

/** Throws ERR_FDB_OPTION for an address at which process `pid`, with these listeners, does not listen. */
export function checkGivenUp(
  addresses: readonly string[],
  listeners: readonly NamedAddress[],
  pid: number,
): void {
  const unknown = addresses.find(text => !listeners.some(listener => means(text, listener)))
  if (unknown === undefined) return
  const known = listeners.map(shownAddress)
  throw new FdbError(
    'ERR_FDB_OPTION',
    `--without ${unknown}: process ${pid} does not listen there; it listens on ${known.join(', ') || 'no address'}`,
    { details: { without: unknown, listeners: known } },
  )
}
