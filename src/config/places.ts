import type { Event, ScalarEvent } from 'js-yaml'
import { jsYaml } from '../base/lazy.js'
import type { Path } from '../checks/place.js'

/** Finds the place of a value in the events of a parsed document. */
export class Places {
  readonly #text: string
  readonly #events: readonly Event[]
  readonly #anchors = new Map<string, number>()

  constructor(text: string, events: readonly Event[]) {
    this.#text = text
    this.#events = events
    for (const [index, event] of events.entries()) {
      if ('start' in event || 'valueStart' in event) {
        const { anchorStart, anchorEnd } = event
        if (anchorStart >= 0) this.#anchors.set(text.slice(anchorStart, anchorEnd), index)
      }
    }
  }

  offsetOf(path: Path, atKey: boolean): number {
    // The first event begins the document.
    let node = 1
    let offset = this.#startOf(node) ?? 0
    for (const [depth, step] of path.entries()) {
      const found = this.#childOf(this.#resolved(node), step)
      if (found === null) break
      offset = atKey && depth === path.length - 1 ? found.keyOffset : found.offset
      node = found.node
    }
    return offset
  }

  #resolved(node: number): number {
    const event = this.#events[node]
    if (event === undefined || 'start' in event || !('anchorStart' in event) || 'valueStart' in event)
      return node
    return this.#anchors.get(this.#text.slice(event.anchorStart, event.anchorEnd)) ?? node
  }

  #childOf(
    parent: number,
    step: string | number,
  ): { node: number; offset: number; keyOffset: number } | null {
    const { EVENT_ID, getScalarValue } = jsYaml()
    const event = this.#events[parent]
    const isMap = event?.type === EVENT_ID.MAPPING
    if (!isMap && event?.type !== EVENT_ID.SEQUENCE) return null
    let reached = event.start
    for (let at = parent + 1, index = 0; this.#events[at]?.type !== EVENT_ID.POP; index++) {
      const key = this.#events[at]!
      const node = isMap ? this.#after(at) : at
      if (isMap) reached = this.#endOf(at) ?? reached
      const isStep =
        !isMap || key.type !== EVENT_ID.SCALAR
          ? index === step
          : getScalarValue(this.#text, key) === String(step)
      if (isStep) {
        const offset = this.#startOf(node) ?? this.#text.indexOf(isMap ? ':' : '-', reached) + 1
        return { node, offset, keyOffset: isMap ? (this.#startOf(at) ?? offset) : offset }
      }
      const end = this.#after(node)
      for (let inside = node; inside < end; inside++) reached = this.#endOf(inside) ?? reached
      at = end
    }
    return null
  }

  /** Returns the index of the event after a node. */
  #after(node: number): number {
    const { EVENT_ID } = jsYaml()
    let open = 0
    for (let at = node; ; at++) {
      const event = this.#events[at]
      if (event === undefined) return at
      if (event.type === EVENT_ID.MAPPING || event.type === EVENT_ID.SEQUENCE) open++
      else if (event.type === EVENT_ID.POP) open--
      if (open <= 0) return at + 1
    }
  }

  /** Returns null for an empty value, which has no text. */
  #startOf(node: number): number | null {
    const event = this.#events[node]
    if (event === undefined) return null
    if ('start' in event) return event.start
    if ('valueStart' in event) {
      if (event.valueStart < 0) return null
      if (isQuoted(event)) return event.valueStart - 1
      return isBlock(event) ? this.#text.lastIndexOf('\n', event.valueStart - 2) + 1 : event.valueStart
    }
    return 'anchorStart' in event ? event.anchorStart - 1 : null
  }

  #endOf(node: number): number | null {
    const event = this.#events[node]
    if (event === undefined) return null
    if ('start' in event) return event.start
    if ('valueStart' in event) return event.valueEnd < 0 ? null : event.valueEnd + (isQuoted(event) ? 1 : 0)
    return 'anchorStart' in event ? event.anchorEnd : null
  }
}

function isQuoted({ style }: ScalarEvent): boolean {
  const { SCALAR_STYLE } = jsYaml()
  return style === SCALAR_STYLE.SINGLE_QUOTED || style === SCALAR_STYLE.DOUBLE_QUOTED
}

function isBlock({ style }: ScalarEvent): boolean {
  const { SCALAR_STYLE } = jsYaml()
  return style === SCALAR_STYLE.LITERAL_BLOCK || style === SCALAR_STYLE.FOLDED_BLOCK
}
