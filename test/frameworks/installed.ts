import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/**
 * The `node_modules` of a folder with a lock file of its own, and this checkout in it as `fd-broker`. They are installed, without
 * their scripts, when the lock file is another than the last time.
 */
export function installed(folder: string): string {
  const modules = join(folder, 'node_modules')
  const stamp = join(modules, '.installed')
  const lock = readFileSync(join(folder, 'package-lock.json'), 'utf8')
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lock) return modules
  execFileSync('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--silent'], { cwd: folder })
  symlinkSync(ROOT, join(modules, 'fd-broker'))
  symlinkSync('../fd-broker/dist/cli.cjs', join(modules, '.bin/fd-broker'))
  writeFileSync(stamp, lock)
  return modules
}
