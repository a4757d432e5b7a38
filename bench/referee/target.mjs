// @ts-check
/**
 * Where the load goes: `http://HOST:PORT`, `unix:/path` or `unix:@abstract`.
 * @typedef {{ connect: import('node:net').NetConnectOpts, host: string }} Target
 */

/**
 * @param {string} text
 * @returns {Target}
 */
export function parseTarget(text) {
  if (text.startsWith('unix:')) {
    const name = text.slice('unix:'.length)
    if (name === '')
      throw new Error(`target ${JSON.stringify(text)} names no path: write unix:/path or unix:@name`)
    return { connect: { path: name.startsWith('@') ? `\0${name.slice(1)}` : name }, host: 'localhost' }
  }
  const url = new URL(text)
  if (url.protocol !== 'http:')
    throw new Error(`target ${text}: only http:// and unix: are spoken, not ${url.protocol}`)
  const host = url.hostname.replace(/^\[|\]$/g, '')
  return { connect: { host, port: Number(url.port || 80) }, host: url.host }
}
