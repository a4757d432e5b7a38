// @ts-check
// The project's home (its repository) in package.json. npm compares it with the repository of the workflow that publishes with provenance.
// `node tools/release/home.mjs https://HOST/OWNER/NAME` writes it. Without it the package cannot be published.
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const FRONT = ['name', 'version', 'description', 'keywords']

/**
 * @param {{ repository?: { url?: string } | string }} manifest
 * @returns {{ url: string, decided: boolean }} the address without `git+` and `.git`; `decided`: there is an address
 */
export function homeOf({ repository }) {
  const written = typeof repository === 'string' ? repository : (repository?.url ?? '')
  const url = written.replace(/^git\+/, '').replace(/\.git$/, '')
  const { hostname } = URL.canParse(url) ? new URL(url) : { hostname: '' }
  return { url, decided: hostname !== '' }
}

/**
 * @param {Record<string, unknown>} manifest
 * @param {string} url https://HOST/OWNER/NAME
 */
export function withHome(manifest, url) {
  const { protocol, pathname } = new URL(url)
  if (protocol !== 'https:' || !/^\/[^/]+\/[^/]+$/.test(pathname))
    throw new Error(`${url} does not have the form https://HOST/OWNER/NAME`)
  const { license, ...rest } = manifest
  const home = {
    homepage: `${url}#readme`,
    bugs: `${url}/issues`,
    ...(license === undefined ? {} : { license }),
    repository: { type: 'git', url: `git+${url}.git` },
  }
  // The new keys follow the keys that describe the package.
  const known = Object.entries(rest).filter(([key]) => !(key in home))
  const front = known.filter(([key]) => FRONT.includes(key))
  const behind = known.filter(([key]) => !FRONT.includes(key))
  return { ...Object.fromEntries(front), ...home, ...Object.fromEntries(behind) }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const file = new URL('../../package.json', import.meta.url)
  const manifest = JSON.parse(readFileSync(file, 'utf8'))
  const [, , url] = process.argv
  if (url !== undefined) writeFileSync(file, `${JSON.stringify(withHome(manifest, url), null, 2)}\n`)
  else if (!homeOf(manifest).decided) {
    console.error(
      'package.json has no home of the project: run node tools/release/home.mjs https://HOST/OWNER/NAME',
    )
    process.exitCode = 1
  }
}
