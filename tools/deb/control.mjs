// @ts-check
// The control file and the maintainer scripts of the Debian package.
import { homeOf } from '../release/home.mjs'

/** Debian's and Node's names of the architectures for which the package has an addon. */
export const ARCHITECTURES = /** @type {Record<string, string>} */ ({ amd64: 'x64', arm64: 'arm64' })

/** Returns Debian's form of a version: with `~` a pre-release sorts before its release. @param {string} version */
export const debianVersion = version => version.replace('-', '~')

/**
 * Returns the text of DEBIAN/control.
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
    // A placeholder until the project has a home.
    Maintainer: manifest.author ?? 'The maintainers of fd-broker <maintainers@fd-broker.invalid>',
    'Installed-Size': String(Math.ceil(bytes / 1024)),
    // The commands need Debian's Node. Users of another Node (nvm, a tarball) install the commands with npm.
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
 * Returns the maintainer scripts. An installation enables and starts no unit, and an upgrade does not restart one: the operator decides when
 * to upgrade it. If `DPKG_ROOT` is set (dpkg installs into an image), the scripts do not touch the running system.
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
# Compiled code that processes of root have stored (docs/install.md, "Starting fast").
rm -rf "\${DPKG_ROOT:-}/usr/lib/fd-broker/.code-cache"
`,
    postrm: reread('remove'),
  }
}
