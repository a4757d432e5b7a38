import { stripVTControlCharacters } from 'node:util'
import truncatedWidth from 'fast-string-truncated-width'

/** The orders that an operator can give in `fd-broker top`, by their keys. */
export const ORDERS = { u: 'upgrade', r: 'rollback', s: 'stop' } as const
export type Order = (typeof ORDERS)[keyof typeof ORDERS]

const KEYS = 'u upgrade   r roll back   s stop   q quit'
const CTRL_C = '\x03'
const CTRL_D = '\x04'

/** The order that the keys have asked for: none, one to be confirmed, or one that runs. */
export type TopState =
  | { readonly mode: 'watching' }
  | { readonly mode: 'asking'; readonly order: Order }
  | { readonly mode: 'running'; readonly order: Order }

export interface TopStep {
  readonly state: TopState
  /** `start`: the order of the new state; `cancel`: the order that runs. */
  readonly act: 'none' | 'start' | 'cancel' | 'quit'
}

export const WATCHING: TopState = { mode: 'watching' }

/** Returns the state after a key. Only `y` confirms an order; an order that runs must end or be cancelled before the screen can be left. */
export function stepKey(state: TopState, key: string): TopStep {
  switch (state.mode) {
    case 'watching': {
      if (key === 'q' || key === CTRL_C || key === CTRL_D) return { state, act: 'quit' }
      const order = isOrderKey(key) ? ORDERS[key] : null
      return { state: order === null ? state : { mode: 'asking', order }, act: 'none' }
    }
    case 'asking':
      return key === 'y'
        ? { state: { mode: 'running', order: state.order }, act: 'start' }
        : { state: WATCHING, act: 'none' }
    case 'running':
      return { state, act: key === CTRL_C ? 'cancel' : 'none' }
  }
}

function isOrderKey(key: string): key is keyof typeof ORDERS {
  return Object.hasOwn(ORDERS, key)
}

interface Screen {
  readonly title: string
  /** The status of the service, or why there is none. */
  readonly status: string
  /** The last lines of an order. */
  readonly output: readonly string[]
  readonly state: TopState
  readonly columns: number
  readonly rows: number
}

/** Returns the lines of the screen, as many as it has rows, none wider than it. The keys and an order's output stay if the status is too long. */
export function screenLines({ columns, output, rows, state, status, title }: Screen): string[] {
  const foot = [...output.slice(-Math.floor(rows / 3)), footOf(state)]
  const body = stripVTControlCharacters(status).trimEnd().split('\n')
  const room = Math.max(0, rows - foot.length - 2)
  const shown =
    body.length > room
      ? [...body.slice(0, Math.max(0, room - 1)), `… ${body.length - room + 1} more lines`]
      : body
  const lines = [title, '', ...shown, ...Array<string>(Math.max(0, room - shown.length)).fill(''), ...foot]
  return lines.slice(-rows).map(line => cut(line, columns))
}

function footOf(state: TopState): string {
  if (state.mode === 'asking') return `${state.order}: are you sure? y starts it, any other key does not`
  return state.mode === 'running' ? `${state.order} runs; Ctrl-C cancels it` : KEYS
}

/** By columns of the terminal: some letters take two of them, others none. */
function cut(line: string, columns: number): string {
  const { ellipsed, index, truncated } = truncatedWidth(line, { limit: columns, ellipsis: '…' })
  return truncated ? `${line.slice(0, index)}${ellipsed ? '…' : ''}` : line
}
