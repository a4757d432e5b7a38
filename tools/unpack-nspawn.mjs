// @ts-check
// `npm run unpack-nspawn`: downloads Debian's package of systemd-nspawn and unpacks it below build/, for test/e2e/systemd-machine.test.ts.
// Installs nothing.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const folder = fileURLToPath(new URL('../build/nspawn', import.meta.url))
mkdirSync(folder, { recursive: true })
const run = (/** @type {string} */ command, /** @type {string[]} */ ...args) => {
  const { status } = spawnSync(command, args, { cwd: folder, stdio: 'inherit' })
  if (status !== 0) process.exit(1)
}
run('apt-get', 'download', 'systemd-container')
const found = readdirSync(folder).filter(name => /^systemd-container_.*\.deb$/.test(name))
run('dpkg-deb', '-x', /** @type {string} */ (found.sort().at(-1)), '.')
