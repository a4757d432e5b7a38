import { socketPair } from '../../src/kernel/index.js'
import { Channel, type ChannelOptions } from '../../src/wire/channel.js'

/** Two connected channels. */
export function channelPair(options: ChannelOptions = {}): [Channel, Channel] {
  const [a, b] = socketPair('channel')
  return [new Channel(a, options), new Channel(b, options)]
}
