// @ts-check
// Packs a tree with its DEBIAN folder as a .deb file: with dpkg-deb, or if that is not installed with ar and tar. The same tree and time give
// the same bytes.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { outputOf } from '../release/run.mjs'

/**
 * @param {string} tree
 * @param {string} file the .deb file, which is replaced if it exists
 * @param {Date} time of all files in the package
 * @param {{ byHand?: boolean }} [options] `byHand`: use ar and tar even if dpkg-deb is installed
 */
export function writeDeb(tree, file, time, { byHand = !hasDpkg() } = {}) {
  rmSync(file, { force: true })
  const seconds = Math.floor(time.getTime() / 1000)
  if (byHand) return byArAndTar(tree, file, seconds)
  const args = ['dpkg-deb', '--root-owner-group', '-Zxz', '--build', tree, file]
  outputOf('env', [`SOURCE_DATE_EPOCH=${seconds}`, ...args], tree)
}

const hasDpkg = () => spawnSync('dpkg-deb', ['--version']).status === 0

/** @param {string} tree @param {string} file @param {number} seconds */
function byArAndTar(tree, file, seconds) {
  const parts = mkdtempSync(join(tmpdir(), 'fdb-ar-'))
  try {
    writeFileSync(join(parts, 'debian-binary'), '2.0\n')
    const same = ['--sort=name', `--mtime=@${seconds}`, '--owner=root:0', '--group=root:0']
    const archive = ['-I', 'gzip -9n', '-cf']
    const control = join(parts, 'control.tar.gz')
    outputOf('tar', [...same, ...archive, control, '-C', join(tree, 'DEBIAN'), '.'], tree)
    const data = join(parts, 'data.tar.gz')
    outputOf('tar', [...same, ...archive, data, '--exclude=./DEBIAN', '-C', tree, '.'], tree)
    // The format prescribes this order.
    outputOf('ar', ['rcD', file, 'debian-binary', 'control.tar.gz', 'data.tar.gz'], parts)
  } finally {
    rmSync(parts, { recursive: true, force: true })
  }
}
