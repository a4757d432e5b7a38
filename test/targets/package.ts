import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll } from 'vitest'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/**
 * A folder of an application beside whose `member.mjs` the package lies as it would be published, without a build of its own: it is
 * the resolver's choice which addon is loaded. The project's own node_modules has its dependencies.
 */
export function applicationFolder(): string {
  mkdirSync(join(ROOT, 'build/targets'), { recursive: true })
  const folder = mkdtempSync(join(ROOT, 'build/targets/application-'))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  // A package.json of its own: otherwise it is a part of this project, and `fd-broker` is the build here.
  writeFileSync(join(folder, 'package.json'), '{ "private": true, "type": "module" }')
  const into = join(folder, 'node_modules')
  mkdirSync(into)
  const npm = process.env.npm_execpath?.endsWith('.js')
    ? [process.execPath, process.env.npm_execpath]
    : ['npm']
  execFileSync(
    npm[0]!,
    [...npm.slice(1), 'pack', '--ignore-scripts', '--silent', '--pack-destination', into],
    {
      cwd: ROOT,
      stdio: 'ignore',
    },
  )
  const archive = readdirSync(into).find(file => file.endsWith('.tgz'))!
  execFileSync('tar', ['-xzf', archive, '--transform', 's/^package/fd-broker/'], { cwd: into })
  cpSync(new URL('member.mjs', import.meta.url), join(folder, 'member.mjs'))
  return folder
}
