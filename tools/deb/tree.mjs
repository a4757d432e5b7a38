// @ts-check
// Creates the tree of files that the Debian package installs.
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { ARCHITECTURES, control, scripts } from './control.mjs'

const HOME = 'usr/lib/fd-broker'
/** Folder of the systemd units in the checkout. */
const SOURCES = 'docs/examples/systemd'
const UNITS = 'usr/lib/systemd/system'
const DOC = 'usr/share/doc/fd-broker'
const EXAMPLES = `${DOC}/examples/systemd`
/** Paths at which the shells find completion scripts of packages. */
const COMPLETIONS = {
  bash: 'usr/share/bash-completion/completions/fd-broker',
  zsh: 'usr/share/zsh/vendor-completions/_fd-broker',
  fish: 'usr/share/fish/vendor_completions.d/fd-broker.fish',
}

/** Returns all files and links below a folder. @param {string} folder */
const filesIn = folder =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter(entry => !entry.isDirectory())
    .map(entry => join(entry.parentPath, entry.name))
    .sort()

/**
 * @param {string} tree the folder to create
 * @param {object} from
 * @param {string} from.root the checkout, which has the units
 * @param {string} from.unpacked the unpacked npm tarball
 * @param {any} from.manifest
 * @param {string} from.architecture Debian's name
 */
export function layOut(tree, { root, unpacked, manifest, architecture }) {
  const home = join(tree, HOME)
  cpSync(unpacked, home, { recursive: true })
  const kept = `linux-${ARCHITECTURES[architecture]}`
  for (const platform of readdirSync(join(home, 'prebuilds')))
    if (platform !== kept) rmSync(join(home, 'prebuilds', platform), { recursive: true })
  // Debian's Node uses glibc.
  for (const file of filesIn(join(home, 'prebuilds'))) if (file.includes('musl')) rmSync(file)

  // Only compilers of programs that import the library read the types.
  rmSync(join(home, 'dist/types'), { recursive: true, force: true })

  const commands = /** @type {[string, string][]} */ (Object.entries(manifest.bin))
  for (const [name, file] of commands) {
    const target = join(home, file)
    // Always Debian's Node, whatever the PATH of a unit or shell is.
    writeFileSync(target, readFileSync(target, 'utf8').replace(/^#!.*/, '#!/usr/bin/node'))
    mkdirSync(join(tree, 'usr/bin'), { recursive: true })
    symlinkSync(join('../lib/fd-broker', file), join(tree, 'usr/bin', name))
  }

  // The package installs the daemon's units. The others are examples for services, which the operator copies and changes.
  const all = readdirSync(join(root, SOURCES))
  const units = all.filter(name => name.startsWith('fd-broker.'))
  for (const name of all)
    cpSync(join(root, SOURCES, name), join(tree, units.includes(name) ? UNITS : EXAMPLES, name))

  const doc = join(tree, DOC)
  mkdirSync(doc, { recursive: true })
  const page = join(home, manifest.man)
  mkdirSync(join(tree, 'usr/share/man/man1'), { recursive: true })
  writeFileSync(join(tree, 'usr/share/man/man1/fd-broker.1.gz'), gzipSync(readFileSync(page), { level: 9 }))
  rmSync(page)
  const command = join(unpacked, manifest.bin['fd-broker'])
  for (const [shell, file] of Object.entries(COMPLETIONS)) {
    mkdirSync(dirname(join(tree, file)), { recursive: true })
    writeFileSync(join(tree, file), completionOf(command, shell))
  }
  writeFileSync(join(doc, 'changelog.gz'), gzipSync(readFileSync(join(home, 'CHANGELOG.md')), { level: 9 }))
  writeFileSync(
    join(doc, 'copyright'),
    `${readFileSync(join(home, 'LICENSE'), 'utf8')}\nCode of other packages is in these files: see /${HOME}/dist/THIRD-PARTY-NOTICES.txt.\n`,
  )
  rmSync(join(home, 'CHANGELOG.md'))

  describe(tree, manifest, architecture, units)
}

/** @param {string} command @param {string} shell */
function completionOf(command, shell) {
  // Otherwise the command would write its code cache into the tree that is packed.
  const env = { ...process.env, FD_BROKER_CODE_CACHE: 'off' }
  return execFileSync(process.execPath, [command, 'completion', shell], { env })
}

/** Sets the modes of all files, and writes DEBIAN/. @param {string} tree @param {any} manifest @param {string} architecture @param {readonly string[]} units */
function describe(tree, manifest, architecture, units) {
  const executable = new Set(Object.values(manifest.bin).map(file => join(tree, HOME, String(file))))
  const files = filesIn(tree)
  let bytes = 0
  for (const file of files) {
    bytes += statSync(file).size
    chmodSync(file, executable.has(file) ? 0o755 : 0o644)
  }
  for (const entry of readdirSync(tree, { recursive: true, withFileTypes: true }))
    if (entry.isDirectory()) chmodSync(join(entry.parentPath, entry.name), 0o755)
  chmodSync(tree, 0o755)

  const folder = join(tree, 'DEBIAN')
  mkdirSync(folder, { mode: 0o755 })
  writeFileSync(join(folder, 'control'), control(manifest, architecture, bytes))
  for (const [name, text] of Object.entries(scripts(units)))
    writeFileSync(join(folder, name), text, { mode: 0o755 })
}
