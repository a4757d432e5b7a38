const LF = 10
const CR = 13

/**
 * Follows a stream of server-sent events and knows after every byte whether it stands between two of them: behind a
 * blank line, or at the beginning. Its whole state is one number, its last four bytes: CR LF, LF and CR all end a line.
 */
export class EventTracker {
  /** The last four bytes, the newest lowest. The beginning is like the end of an event. */
  tail: number

  constructor(tail = 0x0a0a0a0a) {
    this.tail = tail >>> 0
  }

  /** Another event may be put in here. */
  get between(): boolean {
    const { tail } = this
    const last = tail & 0xff
    if (last !== LF && last !== CR) return false
    const before = (tail >>> (last === LF && ((tail >>> 8) & 0xff) === CR ? 16 : 8)) & 0xff
    return before === LF || before === CR
  }

  /** Follows `bytes[from, to)`; looks at the last ones only. */
  follow(bytes: Uint8Array, from: number, to: number): void {
    for (let at = Math.max(from, to - 4); at < to; at++) this.tail = ((this.tail << 8) | bytes[at]!) >>> 0
  }

  /** Follows `bytes[from, to)` up to the end of the first event that ends there, and returns where that is, or `to`. */
  followEvent(bytes: Uint8Array, from: number, to: number): number {
    for (let at = from; at < to; ) {
      this.tail = ((this.tail << 8) | bytes[at++]!) >>> 0
      if (this.between) return at
    }
    return to
  }
}

/** An event as a stream has it, whatever line ends and blank lines `text` has; nothing for nothing. */
export function eventText(text: string): string {
  const lines = text.split(/\r\n|[\r\n]/).filter(line => line !== '')
  return lines.length === 0 ? '' : `${lines.join('\n')}\n\n`
}
