// @ts-check
// `npm run nightly`: what takes longer than a change should wait for. Without a name all steps, one after the other; all of them run, also behind one that
// fails, and the exit code is 1 when one failed. `npm run nightly -- --list` names them.
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))

/**
 * A script of package.json, with what it is told.
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
    what: 'the suite as root with all tools: fails by a test that is left out and not listed in test/lanes/reasons.ts',
    script: 'test',
    env: { FD_BROKER_LEFT_OUT: 'listed' },
    asRoot: true,
  },
  native: { what: 'the addon under the sanitizers and valgrind', script: 'test:native' },
  soak: { what: 'many upgrades and kills under load', script: 'soak' },
  demo: { what: 'five upgrades of the proxy under load, with bounds', script: 'demo' },
  seeds: {
    what: 'the list of mistakes that tests must notice',
    script: 'seeds',
    args: ['--least', '90'],
  },
  mutants: { what: 'small mistakes in the sources', script: 'mutants' },
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
  const told = Object.entries(env).map(([name, value]) => `${name}=${value}`)
  const npm = ['npm', 'run', script, ...(args.length > 0 ? ['--', ...args] : [])]
  // sudo has a PATH of its own: this Node would not be found.
  const sudo =
    asRoot && process.getuid?.() !== 0 ? ['sudo', '-n', 'env', `PATH=${process.env.PATH}`] : ['env']
  const [command = '', ...rest] = [...sudo, ...told, ...npm]
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
