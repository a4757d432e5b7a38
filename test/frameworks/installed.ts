import { execFileSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
/** `$1`: this checkout. */
const INSTALL = `cmp -s package-lock.json node_modules/.installed && exit
npm ci --ignore-scripts --no-audit --no-fund --silent
ln -s "$1" node_modules/fd-broker
ln -s ../fd-broker/dist/cli.cjs node_modules/.bin/fd-broker
cp package-lock.json node_modules/.installed`

/**
 * The `node_modules` of a folder with a lock file of its own, and this checkout in it as `fd-broker`. npm installs them, without
 * their scripts, when the lock file is another than the last time; by one test file, while others of the folder wait.
 */
export function installed(folder: string): string {
  execFileSync('flock', [folder, 'sh', '-ec', INSTALL, 'sh', ROOT], { cwd: folder })
  return join(folder, 'node_modules')
}
