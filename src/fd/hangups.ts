import { native } from '../native.js'

/** What the peer of a socket has done: `ended` its direction, or the connection is `broken`. */
export type Hangup = 'none' | 'ended' | 'broken'

const HANGUPS: readonly Hangup[] = ['none', 'ended', 'broken']

/** Of sockets that somebody else owns and does not read from at the moment. */
export function hangups(descriptors: readonly number[]): Hangup[] {
  return native.hangups(descriptors).map(state => HANGUPS[state]!)
}
