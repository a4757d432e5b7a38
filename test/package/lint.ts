import { execFile } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { ROOT, type Tarball } from './tarball.js'

const run = promisify(execFile)

/** Lists the complaints of publint and arethetypeswrong: entries that are not found, or not as their types say. */
export async function checkLint(tarball: Tarball): Promise<string[]> {
  const found = await Promise.allSettled([
    run(process.execPath, [binOf('publint', 'publint'), 'run', tarball.path, '--strict']),
    run(process.execPath, [
      binOf('@arethetypeswrong/cli', 'attw'),
      tarball.path,
      ...['--profile', 'esm-only', '--format', 'ascii', '--no-emoji'],
    ]),
  ])
  return found.flatMap(result =>
    result.status === 'rejected' ? `${result.reason.stdout}${result.reason.stderr}` : [],
  )
}

function binOf(name: string, program: string): string {
  const home = join(ROOT, 'node_modules', name)
  const { bin } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')) as {
    bin: Record<string, string>
  }
  return join(home, bin[program] ?? '')
}
