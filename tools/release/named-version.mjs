// @ts-check
// Files that have the version besides package.json and package-lock.json.

/**
 * For each file a pattern that matches the version; its group is the text before the version.
 *
 * @type {Readonly<Record<string, RegExp>>}
 */
export const NAMED = {
  'proto/clients/python/pyproject.toml': /^(version = ")[^"]+/m,
  'proto/clients/python/fd_broker/__init__.py': /^(__version__ = ')[^']+/m,
}

/**
 * Returns the text of such a file with another version.
 *
 * @param {string} path
 * @param {string} text of the file
 * @param {string} version
 */
export function withNamedVersion(path, text, version) {
  const pattern = NAMED[path]
  if (!pattern?.test(text)) throw new Error(`${path} has no version`)
  return text.replace(pattern, (_, before) => before + version)
}
