/** For each C file, the C files whose functions it calls. `sources`: texts by name. */
export function nativeArrows(sources: ReadonlyMap<string, string>): Map<string, Set<string>> {
  const code = new Map([...sources].map(([name, text]) => [name, withoutComments(text)]))
  const definedIn = new Map<string, string>()
  for (const [name, text] of code)
    for (const [, called] of text.matchAll(/^(?!static\b)[a-z][\w *]*?\b(fdb_\w+)\s*\([^;{]*\)\s*\{/gm))
      definedIn.set(called!, name)
  return new Map(
    [...code].map(([name, text]) => {
      const names = text.match(/\bfdb_\w+/g) ?? []
      const files = names.map(called => definedIn.get(called)).filter(file => file !== undefined)
      return [name, new Set(files.filter(file => file !== name))]
    }),
  )
}

function withoutComments(text: string): string {
  return text.replace(/\/\*[\s\S]*?\*\/|\/\/[^\n]*|"[^"\n]*"/g, '')
}
