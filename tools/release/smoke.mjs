// @ts-check
// `node tools/release/smoke.mjs FOLDER`: installs the tarball in FOLDER into an empty project, as a user does, starts its proxy, and upgrades the
// proxy while it answers. Needs only Node and npm, so that it also runs on systems without this checkout.
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'

const PORT = 18_080
const DEADLINE = Date.now() + 60_000
const folder = resolve(process.argv[2] ?? 'release')
const archive = readdirSync(folder).find(name => name.endsWith('.tgz'))
if (archive === undefined) throw new Error(`there is no tarball in ${folder}`)

const project = mkdtempSync(join(tmpdir(), 'fdb-'))
const command = join(project, 'node_modules/.bin/fd-broker')
/** @type {import('node:child_process').ChildProcess[]} */
const children = []

/** @param {string} file @param {string[]} args */
const output = (file, ...args) => execFileSync(file, args, { cwd: project, encoding: 'utf8' }).trim()

/** @template T @param {string} what @param {() => Promise<T | false>} holds @returns {Promise<T>} */
async function until(what, holds) {
  for (;;) {
    const found = await holds().catch(() => false)
    if (found !== false) return /** @type {T} */ (found)
    if (Date.now() > DEADLINE) throw new Error(`timeout: not true within 60 s: ${what}`)
    await wait(50)
  }
}

/** @param {string} file */
function start(file) {
  const child = spawn(command, ['proxy', '--config', file], { stdio: ['ignore', 'inherit', 'inherit'] })
  children.push(child)
  return child
}

try {
  writeFileSync(join(project, 'package.json'), '{"private":true}')
  output('npm', 'install', '--ignore-scripts', '--no-audit', '--no-fund', join(folder, archive))
  console.log(
    `fd-broker ${output(command, '--version')}, Node ${process.version}, ${process.platform}-${process.arch}`,
  )
  output(process.execPath, '--input-type=module', '-e', 'import "fd-broker"')

  const control = join(project, 'control', 'upgrade.sock')
  const file = join(project, 'edge.json')
  const config = {
    service: 'edge',
    control,
    listeners: [{ name: 'http', address: `tcp://127.0.0.1:${PORT}` }],
    upgrade: { probation: '0s' },
    routes: [{ host: '*', respond: { status: 200, body: 'ok' } }],
  }
  writeFileSync(file, JSON.stringify(config))
  const answers = async () => (await (await fetch(`http://127.0.0.1:${PORT}/`)).text()) === 'ok'
  const serving = async () => JSON.parse(output(command, 'status', '--json', '--control', control))

  const first = start(file)
  await until('the proxy answers', answers)
  const second = start(file)
  const { pid } = await until('the second one serves', async () => {
    const status = await serving()
    return status.generation === 2 && status
  })
  if (pid !== second.pid) throw new Error(`process ${pid} serves, not ${second.pid}`)
  if (!(await answers())) throw new Error('the second one does not answer')
  await until('the first one ends', async () => first.exitCode === 0)
  second.kill('SIGTERM')
  await until('the second one ends', async () => second.exitCode === 0)
  console.log('one handoff, and both ended with 0')
} finally {
  for (const child of children) child.kill('SIGKILL')
  rmSync(project, { recursive: true, force: true })
}
