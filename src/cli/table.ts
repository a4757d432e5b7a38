/** Without what could move a terminal's cursor: names and messages come from other processes. */
export function plain(value: unknown): string {
  if (value === undefined || value === null || value === '') return '-'
  return String(value).replaceAll(/[\p{Cc}\u2028\u2029]+/gu, ' ')
}

/** Lines with columns two blanks apart, as wide as needed; numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly unknown[])[]): string[] {
  const right = head.map((_, i) => rows.length > 0 && rows.every(row => typeof row[i] === 'number'))
  const text = [head, ...rows].map(row => head.map((_, i) => plain(row[i])))
  const widths = head.map((_, i) => Math.max(...text.map(row => row[i]!.length)))
  return text.map(row =>
    row
      .map((cell, i) => (right[i] ? cell.padStart(widths[i]!) : cell.padEnd(widths[i]!)))
      .join('  ')
      .trimEnd(),
  )
}

/** Lines of names and values, the values below each other. */
export function facts(pairs: readonly (readonly [name: string, value: string])[]): string[] {
  const width = Math.max(0, ...pairs.map(([name]) => name.length))
  return pairs.map(([name, value]) => `${name.padEnd(width)}  ${value}`)
}
