// @ts-check
// Reads and edits CHANGELOG.md.

const HEADING = /^## +\[?([^\]\s]+)\]?(?: +- +(\S+))?\s*$/

/**
 * Returns a version's section of the changelog; null if there is none.
 *
 * @param {string} text of CHANGELOG.md
 * @param {string} version or "Unreleased"
 * @returns {{ date: string | null, body: string } | null} `date` as written in the heading; null if the heading has none
 */
export function changesOf(text, version) {
  const lines = text.split('\n')
  const from = lines.findIndex(line => HEADING.exec(line)?.[1] === version)
  if (from < 0) return null
  const to = lines.findIndex((line, at) => at > from && HEADING.test(line))
  const body = lines
    .slice(from + 1, to < 0 ? lines.length : to)
    .join('\n')
    .trim()
  return { date: HEADING.exec(lines[from] ?? '')?.[2] ?? null, body }
}

/**
 * Moves the unreleased changes to a new section for a version, and returns the new text. The section "Unreleased" is then empty.
 *
 * @param {string} text of CHANGELOG.md
 * @param {string} version
 * @param {string} date YYYY-MM-DD
 */
export function withVersion(text, version, date) {
  if (changesOf(text, version) !== null) throw new Error(`CHANGELOG.md already has a section ${version}`)
  if (!changesOf(text, 'Unreleased')?.body) throw new Error('CHANGELOG.md has nothing under "Unreleased"')
  return text.replace(/^## Unreleased$/m, `## Unreleased\n\n## ${version} - ${date}`)
}

/** @param {string | null} date */
export const isDate = date =>
  date !== null && /^\d{4}-\d\d-\d\d$/.test(date) && !Number.isNaN(Date.parse(date))
