// @ts-check
// Where the version stands beside package.json and its lock file.

/**
 * By file: what is before it, and the version.
 *
 * @type {Readonly<Record<string, RegExp>>}
 */
export const NAMED = {
  'proto/clients/python/pyproject.toml': /^(version = ")[^"]+/m,
  'proto/clients/python/fd_broker.py': /^(__version__ = ')[^']+/m,
}

/**
 * One of these files, of another version.
 *
 * @param {string} path
 * @param {string} text of the file
 * @param {string} version
 */
export function withNamedVersion(path, text, version) {
  const pattern = NAMED[path]
  if (!pattern?.test(text)) throw new Error(`${path} names no version`)
  return text.replace(pattern, (_, before) => before + version)
}
