import { fileURLToPath } from 'node:url'
import { beforeAll, describe, expect, it } from 'vitest'
import { Application } from '../application.js'
import { installed } from '../installed.js'
import { blockOf, commandOf } from '../page.js'

const PAGE = 'frameworks.md'
const MODULE = { 'package.json': '{ "type": "module" }\n' }
let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

/** The lines of the page, the file that most of its programs share, and what they are written around. */
async function shown(
  files: readonly string[],
  others: Readonly<Record<string, string>> = {},
): Promise<Application> {
  const blocks = Object.fromEntries(['service.mjs', ...files].map(file => [file, blockOf(PAGE, file)]))
  return await Application.with({ ...others, ...blocks }, modules)
}

async function run(application: Application, line: string): Promise<void> {
  const { code, stdout, stderr } = await application.run(line)
  expect({ line, code }, `${stdout}\n${stderr}`).toEqual({ line, code: 0 })
}

async function upgraded(application: Application, command: string): Promise<void> {
  const service = await application.serve(...command.split(' '))
  await application.underLoad(async generation => expect(await service.upgrade()).toBe(generation))
  await application.stop()
}

describe('docs/frameworks.md: a server is upgraded three times under load, and no request fails, with', () => {
  it('nest.ts', async () => {
    const application = await shown(['nest.ts', 'tsconfig.json'])
    await upgraded(application, commandOf(PAGE, 'node --import tsx nest'))
    expect(application.sandbox.output).toBe('')
  })

  it('next.mjs', async () => {
    const application = await shown(['next.mjs'], {
      ...MODULE,
      // The packages are elsewhere.
      'next.config.mjs': "export default { turbopack: { root: '/' } }\n",
      'app/layout.js': 'export default ({ children }) => <html><body>{children}</body></html>\n',
      'app/page.js': `export const dynamic = 'force-dynamic'
export default () => <p>{\`generation \${process.env.GENERATION}\`}</p>
`,
    })
    await run(application, commandOf(PAGE, 'npx next build'))
    await upgraded(application, 'node next.mjs')
  })

  it('vite-ssr.mjs', async () => {
    const application = await shown(['vite-ssr.mjs'], {
      ...MODULE,
      'index.html':
        '<body><div id="app"><!--app--></div><script type="module" src="/src/client.js"></script></body>\n',
      'src/client.js': 'document.title = "shop"\n',
      'src/entry-server.js': 'export const render = async (_url, generation) => "generation " + generation\n',
    })
    for (const begin of ['npx vite build --outDir', 'npx vite build --ssr'])
      await run(application, commandOf(PAGE, begin))
    await upgraded(application, 'node vite-ssr.mjs')
    expect(application.sandbox.output).toBe('')
  })
})
