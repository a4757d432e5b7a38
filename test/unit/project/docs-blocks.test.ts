import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Command } from 'commander'
import { stop, transform } from 'esbuild'
import { afterAll, describe, expect, it, onTestFinished } from 'vitest'
import { parse } from 'yaml'
import { wholeProgram } from '../../../src/cli/program.js'
import { RunSources } from '../../../src/cli/run-sources.js'
import { parsePolicy } from '../../../src/daemon/policy/schema.js'
import { Member } from '../../../src/member/member.js'
import { config, LEAST } from '../../fixtures/proxy-config.js'
import { parseDockerfile } from '../../package/dockerfile.js'
import { blocksIn, heredocs, inlineCommands, type PageBlock, pages, pageText } from '../../pages/blocks.js'
import { commandLines, wrongWith } from '../../pages/command-lines.js'
import { issue, revoke } from '../../processes/certificate.js'

/** Blocks without a test, with the reason: this list only shrinks. */
const UNTESTED: readonly { readonly page: string; readonly begins: string; readonly why: string }[] = []

const scripts: Record<string, string> = JSON.parse(
  readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'),
).scripts
const whole = pages().flatMap(page => blocksIn(page, pageText(page)))
const blocks = [...whole, ...whole.flatMap(heredocs)]
const of = (...languages: string[]) =>
  blocks.filter(({ language }) => languages.includes(language)).map(block => [block.at, block] as const)

/** The compiler is a process of its own. */
afterAll(stop)

const DECORATORS = { compilerOptions: { experimentalDecorators: true } }
/** Says which of some modules this version of Node cannot read, and why: one process for all. */
const READ = `
import { readFileSync } from 'node:fs'
import { SourceTextModule } from 'node:vm'
for (const { at, code } of JSON.parse(readFileSync(0, 'utf8')))
  try { new SourceTextModule(code) } catch (error) { console.log(at, error.stack) }`

describe('a block of code on a page', () => {
  it('has a kind that is tested here, or a reason', () => {
    const known = /^(?:js|ts|sh|yaml|json|jsonc|ini|dockerfile|mermaid)$/
    const untested = whole.filter(({ language, text }) =>
      language === '' ? !/^\$ /m.test(text) : !known.test(language),
    )
    const reasons = UNTESTED.map(({ page, begins }) => [page, begins])
    expect(untested.map(({ at, text }) => [at.split(':')[0], text.slice(0, 8)])).toEqual(reasons)
  })

  it('of JavaScript or TypeScript is one that this version of Node can read', async () => {
    const scripts = await Promise.all(
      of('js', 'ts').map(async ([at, { language, text }]) => ({
        at,
        code:
          language === 'ts' ? (await transform(text, { loader: 'ts', tsconfigRaw: DECORATORS })).code : text,
      })),
    )
    expect(scripts.length).toBeGreaterThan(20)
    const args = ['--experimental-vm-modules', '--no-warnings', '--input-type=module', '--eval', READ]
    const { status, stdout, stderr } = spawnSync(process.execPath, args, {
      input: JSON.stringify(scripts),
      encoding: 'utf8',
    })
    expect({ status, stdout, stderr }).toEqual({ status: 0, stdout: '', stderr: '' })
  })

  it.each(of('js', 'ts'))(
    '%s imports what the package exports, and calls what a member has',
    async (_at, { text }) => {
      const imports = text.matchAll(/import \{([^}]*)\} from 'fd-broker(?:\/(\w+))?'/g)
      const required = text.matchAll(/const \{([^}]*)\} = require\('fd-broker(?:\/(\w+))?'\)/g)
      for (const [, names = '', entry = 'index'] of [...imports, ...required]) {
        const [source] = [`${entry}.ts`, `${entry}/index.ts`]
          .map(file => new URL(`../../../src/${file}`, import.meta.url))
          .filter(file => existsSync(file)) as [URL]
        const exported = Object.keys(await import(source.href))
        for (const name of names.split(',').map(each => each.trim())) {
          const [, type] = /^type (\w+)$/.exec(name) ?? []
          if (type) expect(readFileSync(source, 'utf8')).toMatch(new RegExp(`\\b${type}\\b`))
          else expect(exported).toContain(name)
        }
      }
      const called = [...text.matchAll(/\bmember\.(\w+)\b/g)].map(([, name]) => name!)
      expect(called.filter(name => !(name in Member.prototype))).toEqual([])
    },
  )

  it.each(of('yaml'))('%s is a configuration that its command accepts', async (_at, { text }) => {
    const folder = mkdtempSync(join(tmpdir(), 'fdb-docs-'))
    onTestFinished(() => rmSync(folder, { recursive: true }))
    const document: Record<string, unknown> = parse(text)
    if ('command' in document) {
      writeFileSync(join(folder, 'run.yaml'), text)
      const sources = new RunSources([], { config: join(folder, 'run.yaml') })
      expect(await sources.supervisorSettings()).toMatchObject({ restart: 'never' })
      expect((await sources.versionSettings()).command).toEqual(document.command)
    } else if ('jobs' in document || text.startsWith('# compose.yaml')) {
      // Files of GitHub and of Docker Compose: tried in test/frameworks/guides.test.ts.
      const parts = Object.values((document.jobs ?? document.services) as Record<string, object>)
      for (const part of parts) expect(part).toSatisfy(it => 'steps' in it || 'command' in it)
    } else if ('services' in document) {
      expect(parsePolicy(text, 'broker.yaml').services.size).toBeGreaterThan(0)
    } else {
      const servers = { app: { servers: ['http://127.0.0.1:9001'] } }
      const completed = JSON.stringify({ ...parse(LEAST), upstreams: servers, ...document })
      const { cert, key } = issued(folder, completed)
      const files = completed.replace(/"\/[^"]*\.crt"/g, `"${cert}"`).replace(/"\/[^"]*\.key"/g, `"${key}"`)
      const here = files.replace(/"\/[^"]*\.crl"/g, () => `"${revoke({ cert, key }, folder, 'a.crl', [])}"`)
      expect(config(here).service).toBe('edge')
    }
  })

  it.each(of('json', 'jsonc'))('%s is JSON, whole or line by line', (_at, { text }) => {
    const plain = text.replace(/^\/\/.*\n/, '')
    for (const part of plain.startsWith('{\n') ? [plain] : plain.trim().split('\n'))
      expect(JSON.parse(part)).toBeTypeOf('object')
  })

  it.each(of('ini'))('%s is a unit whose commands exist', async (_at, { text }) => {
    const lines = text.trim().split('\n')
    expect(lines.filter(line => !/^(?:#.*|\[[A-Z]\w+\]|[A-Z]\w+=.+|)$/.test(line))).toEqual([])
    const starts = lines.flatMap(line => /^Exec\w+=(.*)$/.exec(line)?.[1] ?? [])
    expect(await faults(starts.map(start => ({ at: start, language: 'sh', text: start })))).toEqual([])
  })

  it.each(of('dockerfile'))('%s has a stage with a command', (_at, { text }) => {
    const { stages } = parseDockerfile(text.replace(/^#.*\n/, ''))
    expect(stages.at(-1)?.steps.at(-1)?.instruction).toMatch(/^(?:CMD|ENTRYPOINT)$/)
  })

  it.each(of('mermaid'))('%s is a diagram of a known kind', (_at, { text }) => {
    expect(text).toMatch(/^(?:sequenceDiagram|flowchart (?:LR|BT|TB)|xychart-beta horizontal)\n/)
  })
})

describe('a command on a page', () => {
  it('of fd-broker has words and options that exist', async () => {
    const inline = pages().flatMap(page => inlineCommands(page, pageText(page)))
    expect(inline.length).toBeGreaterThan(100)
    const shells = of('sh', '').map(([, block]) => block)
    expect(await faults([...shells, ...inline])).toEqual([])
  })

  it('of npm runs a script of the package', () => {
    const text = ['.github/CONTRIBUTING.md', ...pages()].map(pageText).join('\n')
    const run = [...text.matchAll(/\bnpm run (?:-s |--silent )?([\w:-]+)/g)].map(([, name]) => name!)
    expect(run.filter(name => !(name in scripts))).toEqual([])
  })

  it.each([
    ['fd-broker frobnicate', 'there is no command frobnicate'],
    ['npx fd-broker status --jsno', 'status has no option --jsno'],
    ['fd-broker stop --control', '--control has no value'],
    ['fd-broker status now', 'status takes 0 arguments, not 1'],
    ['fd-broker run --listen web=tcp://*:80 -- fd-broker proxy --conf x', 'proxy has no option --conf'],
    ['false && fd-broker state shew', 'there is no command shew'],
  ])('as %s is refused', async (text, why) => {
    expect(await faults([{ at: 'here', language: 'sh', text }])).toEqual([`here: ${why}`])
  })
})

/** Stands in for those of a configuration. */
function issued(folder: string, text: string): { cert: string; key: string } {
  return text.includes('.crt"') ? issue(folder, 'app', ['app.example.com']) : { cert: '', key: '' }
}

let understood: Command | undefined

async function faults(shells: readonly PageBlock[]): Promise<string[]> {
  understood ??= await wholeProgram()
  const all = understood
  return shells.flatMap(({ at, text }) =>
    commandLines(text)
      .map(line => wrongWith(all, line))
      .filter(why => why !== null)
      .map(why => `${at}: ${why}`),
  )
}
