/** The answer to an order, the process that got it, and the clients, as an observer sees them. */
export interface Sight {
  /** `done`, `waits`, or the code of a refusal. */
  readonly answer: string
  /** The phase of the process afterwards; `ended`; `alive`, but without a member; or `stopped` by a signal. */
  readonly after: string
  /** The process that answers new clients: the one with the order, another one, any of them, or none; `waits`: the clients wait. */
  readonly serves: 'it' | 'other' | 'any' | 'none' | 'waits'
}

export type Cell =
  /** The driver plays the cell, and sees this: at once, and when the hook has let the process go on. */
  | { readonly by: 'play'; readonly first: Sight; readonly later: Sight | null }
  /** Another test plays the cell. */
  | { readonly by: 'test'; readonly says: string; readonly file: string; readonly title: string }
  /** The order reaches the process that serves, which is in this phase. */
  | { readonly by: 'other'; readonly phase: string }
  /** No test plays the cell. */
  | { readonly by: 'claim'; readonly says: string }
  /** The process cannot be in this phase, or get this order. */
  | { readonly by: 'none'; readonly why: string }
  | { readonly by: 'open' }

/** Reads `done serving it > done ended other`: answer, phase and serving process, at once and later. */
export function played(text: string): Cell {
  const [first, later = null] = text.split(' > ').map(sightOf)
  return { by: 'play', first: first!, later }
}

function sightOf(text: string): Sight {
  const [answer = '', after = '', serves = ''] = text.split(' ')
  return { answer, after, serves: serves as Sight['serves'] }
}

export function tested(says: string, file: string, title: string): Cell {
  return { by: 'test', says, file: `test/${file}.test.ts`, title }
}

export function reaches(phase: string): Cell {
  return { by: 'other', phase }
}

export function claimed(says: string): Cell {
  return { by: 'claim', says }
}

export function never(why: string): Cell {
  return { by: 'none', why }
}

export const OPEN: Cell = { by: 'open' }
