import { MoveCounts } from '../../src/connections/counts.js'
import type { MovableConnections } from '../../src/connections/movable.js'
import { movePair } from '../../src/connections/move-channel.js'
import { MoveLog } from '../../src/connections/move-log.js'
import { ConnectionReceiver } from '../../src/connections/receiver.js'
import { ConnectionSender } from '../../src/connections/sender.js'
import { native } from '../../src/kernel/native.js'
import { Channel } from '../../src/wire/channel.js'
import { Link } from '../../src/wire/link.js'

export interface MoveOptions {
  perSecond?: number
  firstWaveMs?: number
  drainMs?: number
}

/** A sender of the connections of `old` and a receiver that continues them in `young`, neither started. `ended`: both have ended. `cut`: the channel between them ends. */
export function moveBetween(
  old: readonly MovableConnections[],
  young: MovableConnections,
  options: MoveOptions = {},
) {
  const pair = movePair()
  const given = new MoveCounts()
  const taken = new MoveCounts()
  const faults: unknown[] = []
  const reportError = (error: unknown) => faults.push(error)
  let senderEnded!: () => void
  let receiverEnded!: () => void
  const ended = Promise.all([
    new Promise<void>(resolve => (senderEnded = resolve)),
    new Promise<void>(resolve => (receiverEnded = resolve)),
  ])
  const receiverLog = MoveLog.open(pair.log.fd.dup())
  const sender = new ConnectionSender({
    link: new Link(new Channel(pair.give)),
    log: pair.log,
    sources: () => old.map(moving => ({ listener: 'web', address: '', moving })),
    which: 'auto',
    perSecond: options.perSecond ?? Number.POSITIVE_INFINITY,
    firstWaveMs: options.firstWaveMs ?? 0,
    drainMs: options.drainMs ?? 60_000,
    counts: given,
    reportError,
    onEnded: senderEnded,
  })
  const receiver = new ConnectionReceiver({
    link: new Link(new Channel(pair.take)),
    log: receiverLog,
    sender: process.pid,
    target: (listener, protocol) => (listener === 'web' && protocol === young.protocol ? young : undefined),
    counts: taken,
    reportError,
    onEnded: receiverEnded,
  })
  const cut = () => {
    if (!pair.take.closed) native.shutDown(pair.take.raw)
  }
  return { sender, receiver, given, taken, faults, ended, cut }
}
