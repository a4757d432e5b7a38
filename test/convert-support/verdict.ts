import type { Asked, Got } from './places.js'

/** `open`: ours serves what theirs refuses. `closed`: ours refuses what theirs serves. `wrong`: another server, path, header or status. */
export interface Difference {
  readonly kind: 'open' | 'closed' | 'wrong'
  readonly asked: Asked
  readonly theirs: Got
  readonly ours: Got
}

export interface Verdict {
  readonly differences: readonly Difference[]
  /** Requests of which everything was compared. */
  readonly strict: number
}

export const refuses = ({ status, server }: Got) => server === null && status >= 400

export const sorted = (record: Readonly<Record<string, string>> = {}) =>
  Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1))
