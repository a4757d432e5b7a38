// @ts-check
// Where the project lives, as package.json says it. A registry that publishes with provenance compares this with the
// repository whose workflow publishes. `node tools/release/home.mjs https://HOST/OWNER/NAME` writes it.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Names no host can have (RFC 6761): the mark of a home that nobody has decided yet. */
const UNDECIDED = /(^|\.)invalid$/

/**
 * @param {{ repository?: { url?: string } | string }} manifest
 * @returns {{ url: string, decided: boolean }} the address without `git+` and `.git`
 */
export function homeOf({ repository }) {
  const written = typeof repository === 'string' ? repository : (repository?.url ?? '')
  const url = written.replace(/^git\+/, '').replace(/\.git$/, '')
  const { hostname } = URL.canParse(url) ? new URL(url) : { hostname: '' }
  return { url, decided: hostname !== '' && !UNDECIDED.test(hostname) }
}

/**
 * @template {object} T
 * @param {T} manifest
 * @param {string} url https://HOST/OWNER/NAME
 */
export function withHome(manifest, url) {
  const { protocol, pathname } = new URL(url)
  if (protocol !== 'https:' || !/^\/[^/]+\/[^/]+$/.test(pathname))
    throw new Error(`${url} is no https://HOST/OWNER/NAME`)
  return {
    ...manifest,
    homepage: `${url}#readme`,
    bugs: `${url}/issues`,
    repository: { type: 'git', url: `git+${url}.git` },
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const file = new URL('../../package.json', import.meta.url)
  const manifest = withHome(JSON.parse(readFileSync(file, 'utf8')), process.argv[2] ?? '')
  writeFileSync(file, `${JSON.stringify(manifest, null, 2)}\n`)
}
