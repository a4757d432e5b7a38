// @ts-check
import { execFileSync } from 'node:child_process'
import { basename, join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** A program in C of this folder, compiled into `folder`. @param {string} file @param {string} folder @returns {string} its path */
export function compiled(file, folder) {
  const binary = join(folder, basename(file, '.c'))
  const source = fileURLToPath(new URL(file, import.meta.url))
  execFileSync(process.env.CC ?? 'cc', ['-O2', '-Wall', '-Wextra', '-Werror', '-o', binary, source], {
    stdio: 'inherit',
  })
  return binary
}
