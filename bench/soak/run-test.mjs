// @ts-check
import { spawnSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'

/** Runs a test that takes longer with these variables. @param {string} file @param {NodeJS.ProcessEnv} env */
export function runTest(file, env) {
  const root = fileURLToPath(new URL('../../', import.meta.url))
  const { status } = spawnSync(process.execPath, ['node_modules/vitest/vitest.mjs', 'run', file], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ...env },
  })
  if (status !== 0) process.exitCode = 1
}
