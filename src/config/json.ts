const QUOTE = 0x22
const COLON = 0x3a
const BACKSLASH = 0x5c

/** The value of a JSON text; undefined for anything else, and where a key is given twice in the same object. */
export function parseJson(text: string): unknown {
  if (!/^\s*[[{]/.test(text)) return undefined
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return undefined
  }
  // JSON.parse() takes the last of several: then there are fewer keys than colons.
  return keysIn(value) === colonsIn(text) ? value : undefined
}

function keysIn(value: unknown): number {
  let keys = 0
  const open: unknown[] = [value]
  const look = (each: unknown) => {
    if (typeof each === 'object' && each !== null) open.push(each)
  }
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (Array.isArray(next)) {
      for (const each of next) look(each)
      continue
    }
    for (const key in next as Record<string, unknown>) {
      keys++
      look((next as Record<string, unknown>)[key])
    }
  }
  return keys
}

/** Outside of texts. */
function colonsIn(json: string): number {
  let colons = 0
  let text = false
  for (let at = 0; at < json.length; at++) {
    const code = json.charCodeAt(at)
    if (code === QUOTE) text = !text
    else if (text && code === BACKSLASH) at++
    else if (!text && code === COLON) colons++
  }
  return colons
}
