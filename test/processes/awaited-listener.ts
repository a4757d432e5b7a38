import { AwaitedListeners } from '../../src/auto/awaited-listeners.js'
import type { Member } from '../../src/index.js'

export const AWAITED = { name: 'web', address: 'tcp://127.0.0.1:1', inode: '7' }

/** A next version that lacks one listener of the version that answers at `control`. */
export function awaiting(control: string): AwaitedListeners {
  return new AwaitedListeners({
    member: { unadopted: [AWAITED] } as unknown as Member,
    control,
    without: [],
    isUsed: () => false,
    listens: () => true,
    changed: () => {},
  })
}
