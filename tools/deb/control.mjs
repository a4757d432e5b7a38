// @ts-check
// What Debian's tools are told of the package.
import { homeOf } from '../release/home.mjs'

/** Debian's names of the processors that there is an addon for, and Node's. */
export const ARCHITECTURES = /** @type {Record<string, string>} */ ({ amd64: 'x64', arm64: 'arm64' })

/** @param {string} version a pre-release comes before its release in Debian's order too */
export const debianVersion = version => version.replace('-', '~')

/**
 * DEBIAN/control.
 *
 * @param {any} manifest package.json
 * @param {string} architecture Debian's name
 * @param {number} bytes installed
 */
export function control(manifest, architecture, bytes) {
  const { url, decided } = homeOf(manifest)
  const node = manifest.engines.node.replace('>=', '').trim()
  const fields = {
    Package: manifest.name,
    Version: debianVersion(manifest.version),
    Architecture: architecture,
    // Whose address that is will be known with the project's home.
    Maintainer: manifest.author ?? 'The maintainers of fd-broker <maintainers@fd-broker.invalid>',
    'Installed-Size': String(Math.ceil(bytes / 1024)),
    // The commands are nothing without it. A Node that is no Debian package (nvm, a tarball) is no reason for this package: npm
    // installs the same commands there.
    Depends: `nodejs (>= ${node})`,
    Section: 'net',
    Priority: 'optional',
    ...(decided && { Homepage: url }),
    Description: `${manifest.description}
 fd-broker hands listening sockets, state and live connections of a running
 server to its next version. This package has its commands: the reverse proxy,
 the daemon that holds sockets and state, and the tools of operators. Programs
 that use the library take it from npm.`,
  }
  return Object.entries(fields)
    .map(([name, value]) => `${name}: ${value}\n`)
    .join('')
}

/**
 * Maintainer scripts. Installing enables and starts nothing, and a newer version leaves alone what runs: when that is replaced is the operator's
 * decision. With `DPKG_ROOT` set (an image is being made) they leave the running system alone.
 *
 * @param {readonly string[]} units
 * @returns {Record<string, string>}
 */
export function scripts(units) {
  const running = `[ -z "\${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]`
  const reread = (/** @type {string} */ when) => `#!/bin/sh
set -e
if [ "$1" = ${when} ] && ${running}; then
    systemctl daemon-reload || true
fi
`
  return {
    postinst: reread('configure'),
    prerm: `#!/bin/sh
set -e
if [ "$1" = remove ] && ${running}; then
    systemctl stop ${units.join(' ')} || true
fi
# What root's processes have left there (docs/install.md, "Starting fast").
rm -rf "\${DPKG_ROOT:-}/usr/lib/fd-broker/.code-cache"
`,
    postrm: reread('remove'),
  }
}
