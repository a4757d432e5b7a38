import { chmodSync } from 'node:fs'
import { join } from 'node:path'
import { blocksIn, type PageBlock, pageText } from '../pages/blocks.js'
import { freePort } from './processes.js'
import type { Project } from './project.js'

/** Blocks for a clone: CI runs them there. */
const IN_A_CLONE = [/^npm install && npm run demo$/, /^npm install && npm test$/]
/** The README installs a clone beside the application; a project here has the tarball, by its name. */
const FROM_A_CLONE = 'npm install ../fd-broker'

/** Stands in for the real one: it serves on the socket that it inherits. */
const GUNICORN = `#!/usr/bin/env node
require('node:http').createServer((request, response) => response.end('ok')).listen({ fd: 3 })
`

/** The README's blocks for an application, in their order, without pictures. */
function blocks(): PageBlock[] {
  return blocksIn('README.md', pageText('README.md')).filter(
    ({ language, text }) => language !== 'mermaid' && !IN_A_CLONE.some(known => known.test(text.trim())),
  )
}

/** The blocks that start a server, in an empty folder with nothing but Node and npm. Returns what is wrong. */
export async function checkServers(project: Project): Promise<string[]> {
  const [auto, library] = blocks()
  if (auto?.language !== 'sh' || library?.language !== 'sh' || !auto.text.includes(FROM_A_CLONE))
    return [`the README does not begin with ${FROM_A_CLONE}`]
  // Services without a path are looked for there; the user may have services of these names.
  project.env.RUNTIME_DIRECTORY = join(project.folder, 'run')
  return [
    ...(await checkServer(project, auto.text, 'version 2\n', ['--service', 'shop'])),
    ...(await checkServer(project, library.text, 'generation 2\n', ['--control', 'run/upgrade.sock'])),
  ]
}

async function checkServer(
  project: Project,
  block: string,
  says: string,
  found: readonly string[],
): Promise<string[]> {
  // Another port, as the user may use the README's.
  const port = await freePort()
  // The server is asked before it is stopped, below.
  const running = block.replace(/^npx fd-broker stop .*\n/m, '')
  const script = running.replace(FROM_A_CLONE, 'npm install fd-broker').replaceAll('8080', String(port))
  project.write('run/.keep', '')
  const { code, text, ms } = await project.run(['bash', '-euo', 'pipefail', '-c', script])
  if (code !== 0) return [`a block of the README ended with ${code}: ${text}`]
  if (/warn/i.test(text)) return [`a block of the README warns: ${text}`]
  const answer = await fetch(`http://127.0.0.1:${port}/`).then(
    response => response.text(),
    error => String(error),
  )
  if (answer !== says) return [`after a block of the README its server says ${answer}: ${text}`]
  const ended = await project.run(['npx', 'fd-broker', 'stop', ...found])
  if (ended.code !== 0) return [`the server of the README's block does not end: ${ended.text}`]
  return ms < 30_000 ? [] : [`a block of the README takes ${Math.round(ms / 1000)} s`]
}

/** The other blocks, with paths and ports of a project, in which the package is installed. Returns the faults. */
export async function checkOtherBlocks(project: Project): Promise<string[]> {
  const here = async (text: string) =>
    text
      .replaceAll(/\/run\/([\w-]+)\//g, join(project.folder, 'run', '$1', '/'))
      .replaceAll('tcp://0.0.0.0:8080', `tcp://127.0.0.1:${await freePort()}`)
  project.write('run/.keep', '')
  chmodSync(project.write('bin/gunicorn', GUNICORN), 0o755)
  // The server is killed in the end: its control socket must not stay in the folder that all tests share.
  project.write('control/.keep', '')
  const env = {
    PATH: `${join(project.folder, 'bin')}:${project.env.PATH}`,
    RUNTIME_DIRECTORY: join(project.folder, 'control'),
  }
  project.write('edge.yaml', edge(project, await freePort()))
  project.write('routes.json', JSON.stringify([{ host: 'shop.test', path: '/', respond: { status: 204 } }]))
  const wrong: string[] = []
  const steps: string[] = []
  for (const { language, text } of blocks().slice(2)) {
    const code = (await here(text)).trim()
    if (language === 'js') steps.push(`node ${project.write(`block-${steps.length}.mjs`, code)}`)
    else if (language === 'sh') steps.push(...code.split('\n'))
    else wrong.push(`the README has a block of ${language}: how is it tried?`)
  }
  for (const step of steps) {
    const [command = ''] = step.split(/ +#/)
    // A server runs on.
    const stays = /^node |fd-broker (?:serve|proxy|run) /.test(command)
    const { code, text } = await project.run(['bash', '-c', stays ? inBackground(command) : command], env)
    if (code !== 0) wrong.push(`the README's ${command} ended with ${code}: ${text}`)
  }
  return wrong
}

/** Runs the command in the background, which has a second to fail. */
function inBackground(command: string): string {
  return `${command} & server=$!; sleep 1.5; kill -0 $server`
}

function edge(project: Project, port: number): string {
  return `service: edge
control: ${join(project.folder, 'run', 'edge', 'upgrade.sock')}
listeners:
  - { name: http, address: "tcp://127.0.0.1:${port}" }
`
}
