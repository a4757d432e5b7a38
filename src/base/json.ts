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
