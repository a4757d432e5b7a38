/** Parses JSON. Returns undefined for other text. */
export function jsonValue(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Parses a JSON object or array. Returns undefined for other text. */
export function jsonObject(text: string): Record<string, unknown> | undefined {
  const value = jsonValue(text)
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined
}

const [QUOTE, BACKSLASH] = [0x22, 0x5c]
const OPENING: readonly number[] = [0x5b, 0x7b]
const CLOSING: readonly number[] = [0x5d, 0x7d]

/** A text of another process with more levels than this is faulty. */
const MOST_LEVELS = 100

/** Whether arrays and objects of a JSON text are nested in more than 100 levels. JSON.stringify() fails at some thousand levels, which JSON.parse() accepts. */
export function isTooDeep(text: string): boolean {
  let levels = 0
  let inString = false
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    if (code === QUOTE) inString = !inString
    else if (inString) at += code === BACKSLASH ? 1 : 0
    else if (OPENING.includes(code) && ++levels > MOST_LEVELS) return true
    else if (CLOSING.includes(code)) levels--
  }
  return false
}
