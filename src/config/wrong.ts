/** What a reader of one value gives instead of the value: a sentence that says what is wrong and what to write. */
export class Wrong {
  readonly why: string

  constructor(why: string) {
    this.why = why
  }
}

const SHOWN = 80

/** A value as it is named in messages: JSON, cut after 80 characters. */
export function shown(value: unknown): string {
  const text = jsonOf(value)
  return text.length <= SHOWN ? text : `${text.slice(0, SHOWN)}…`
}

function jsonOf(value: unknown): string {
  if (typeof value === 'number') return String(value)
  try {
    return JSON.stringify(value) ?? (value === undefined ? 'nothing' : String(value))
  } catch {
    // It has itself in it, or is nested too deeply.
    return Array.isArray(value) ? '[…]' : '{…}'
  }
}
