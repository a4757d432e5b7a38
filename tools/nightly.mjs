// @ts-check
// `npm run nightly [-- STEP …]`: runs the checks that take too long for each change, by default all steps. Continues after a failed step, and
// then exits with code 1. `npm run nightly -- --list` lists the steps.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

/**
 * A script of package.json with its arguments and variables; `what` describes it in the list.
 * @typedef {{ script: string, args?: string[], env?: Record<string, string>, asRoot?: boolean, what: string }} Step
 */

/** @type {Readonly<Record<string, Step>>} */
export const STEPS = {
  suite: {
    what: 'the suite in its long form: every kept release, long exploration, many rounds',
    script: 'test',
    env: { FD_BROKER_LANE: 'nightly' },
  },
  root: {
    what: 'the suite as root with all tools: fails if a test is skipped for a reason that test/lanes/reasons.ts does not list',
    script: 'test',
    env: { FD_BROKER_LEFT_OUT: 'listed' },
    asRoot: true,
  },
  native: { what: 'the addon under the sanitizers and valgrind', script: 'test:native' },
  nodes: { what: 'moves of connections on the newest Node 22, 24 and 26', script: 'test:nodes' },
  soak: { what: 'many upgrades and kills under load', script: 'soak' },
  peers: {
    what: 'a change of version of fd-broker and of each installed peer under the same load',
    script: 'bench',
    args: ['peers', '--upgrades', '1', '--seconds', '2'],
  },
  demo: { what: 'five upgrades of the proxy under load, with bounds', script: 'demo' },
  seeds: {
    what: 'the list of mistakes that tests must notice',
    script: 'seeds',
    args: ['--least', '90'],
  },
  clients: {
    what: 'the same of the members in Python and Go',
    script: 'seeds:clients',
  },
  mutants: { what: 'small mistakes in the sources', script: 'mutants' },
  mutate: { what: 'a fresh sample of mistakes of drivers', script: 'mutate' },
  targets: { what: 'the addons of all platforms', script: 'test:targets' },
  package: { what: 'the tarball with every package manager', script: 'test:package', args: ['--all'] },
  frameworks: {
    what: 'docs/frameworks.md, docs/deploy.md, applications under auto',
    script: 'test:frameworks',
  },
}

const { scripts } = JSON.parse(readFileSync(`${root}package.json`, 'utf8'))

/** @param {Step} step @returns {'ok' | 'failed' | 'not there'} */
function run({ script, args = [], env = {}, asRoot = false }) {
  if (!(script in scripts)) return 'not there'
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  const npm = ['npm', 'run', script, ...(args.length > 0 ? ['--', ...args] : [])]
  // sudo replaces PATH, and would not find this Node.
  const sudo =
    asRoot && process.getuid?.() !== 0 ? ['sudo', '-n', 'env', `PATH=${process.env.PATH}`] : ['env']
  const [command = '', ...rest] = [...sudo, ...variables, ...npm]
  return spawnSync(command, rest, { cwd: root, stdio: 'inherit' }).status === 0 ? 'ok' : 'failed'
}

/** @param {readonly string[]} names */
function main(names) {
  if (names.includes('--list')) {
    for (const [name, { what }] of Object.entries(STEPS)) console.log(`${name.padEnd(10)}  ${what}`)
    return
  }
  const unknown = names.filter(name => !(name in STEPS))
  if (unknown.length > 0) {
    console.error(`nightly: no step ${unknown.join(', ')}; there are ${Object.keys(STEPS).join(', ')}`)
    process.exitCode = 2
    return
  }
  const outcomes = (names.length > 0 ? names : Object.keys(STEPS)).map(name => {
    console.log(`\n== ${name}: ${STEPS[name]?.what}`)
    const began = performance.now()
    const outcome = run(/** @type {Step} */ (STEPS[name]))
    return { name, outcome, seconds: Math.round((performance.now() - began) / 1000) }
  })
  console.log()
  for (const { name, outcome, seconds } of outcomes)
    console.log(`${name.padEnd(10)}  ${outcome} (${seconds} s)`)
  if (outcomes.some(({ outcome }) => outcome === 'failed')) process.exitCode = 1
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main(process.argv.slice(2))
