/**
 * `npx tsx test/seeds/clients.ts [TEXT]`: makes each mistake of the list alone in a copy of the member in Python or Go, runs the tests of that
 * member (which read test/vectors), and prints which they notice. Exit code 1 if a text is stale, or if fewer than nine of ten are noticed.
 */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { GO_ALONE, type MemberLanguage } from '../processes/toolchains.js'
import { CLIENT_SEEDS, type ClientSeed } from './rooms/clients.js'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))

/** A copy of one member, at the same place below a folder with the tests and pages that it reads. */
class Copy {
  readonly #root = mkdtempSync(join(tmpdir(), 'fdb-seeds-'))
  readonly #client: string

  constructor(language: MemberLanguage) {
    this.#client = join(this.#root, 'proto/clients', language)
    mkdirSync(join(this.#root, 'proto/clients'), { recursive: true })
    cpSync(join(ROOT, 'proto/clients', language), this.#client, { recursive: true })
    for (const folder of ['test', 'docs']) symlinkSync(join(ROOT, folder), join(this.#root, folder))
  }

  /** Runs `act` with the mistake in the copy. */
  with<T>({ file, find, put }: ClientSeed, act: () => T): T {
    const path = join(this.#client, file)
    const source = readFileSync(path, 'utf8')
    writeFileSync(
      path,
      source.replace(find, () => put),
    )
    try {
      return act()
    } finally {
      writeFileSync(path, source)
    }
  }

  /** The first line that says what failed; null: nothing did. */
  failure(language: MemberLanguage): string | null {
    const [command, ...args] =
      language === 'python'
        ? ['python3', '-m', 'unittest', '-q', '-f']
        : ['go', 'test', '-count=1', '-failfast', '-timeout=60s', '.']
    try {
      execFileSync(command!, args, {
        cwd: this.#client,
        stdio: 'pipe',
        encoding: 'utf8',
        timeout: 120_000,
        env: { ...process.env, ...GO_ALONE, PYTHONDONTWRITEBYTECODE: '1' },
      })
      return null
    } catch (error) {
      const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string }
      const text = `${stdout}${stderr}`
      if (/\[(?:build|setup) failed\]|SyntaxError|IndentationError/.test(text))
        throw new Error(`the mistake is no program:\n${text.slice(0, 2_000)}`)
      return (/^(?:FAIL|ERROR): .*|^ *--- FAIL.*|^panic: .*/m.exec(text) ?? ['it did not end'])[0].trim()
    }
  }

  close(): void {
    rmSync(this.#root, { recursive: true, force: true })
  }
}

export function isStale({ language, file, find }: ClientSeed): boolean {
  const source = readFileSync(join(ROOT, 'proto/clients', language, file), 'utf8')
  return source.split(find).length !== 2
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const nameOf = ({ language, part, file, find, put }: ClientSeed) =>
    `${language} ${part} ${file}: ${find.trim()} => ${put.trim() || 'nothing'}`.replace(/\s+/g, ' ')
  const chosen = CLIENT_SEEDS.filter(seed => nameOf(seed).includes(process.argv[2] ?? ''))
  const stale = chosen.filter(isStale)
  const noticed: ClientSeed[] = []
  for (const seed of stale) console.log(`stale: ${nameOf(seed)}`)
  for (const language of ['python', 'go'] as const) {
    const own = chosen.filter(seed => seed.language === language && !stale.includes(seed))
    if (own.length === 0) continue
    const copy = new Copy(language)
    try {
      const failing = copy.failure(language)
      if (failing !== null) throw new Error(`fails without a seed: ${failing}`)
      for (const seed of own) {
        const failure = copy.with(seed, () => copy.failure(language))
        if (failure !== null) noticed.push(seed)
        console.log(
          `${failure === null ? 'SURVIVED' : 'noticed'}: ${nameOf(seed)}${failure === null ? '' : `\n    by ${failure}`}`,
        )
      }
    } finally {
      copy.close()
    }
  }
  for (const part of new Set(chosen.map(seed => seed.part))) {
    const count = (seeds: readonly ClientSeed[]) => seeds.filter(seed => seed.part === part).length
    console.log(`${part}: ${count(noticed)} of ${count(chosen)}`)
  }
  console.log(`all: ${noticed.length} of ${chosen.length}`)
  if (stale.length > 0 || noticed.length < 0.9 * chosen.length) process.exitCode = 1
}
