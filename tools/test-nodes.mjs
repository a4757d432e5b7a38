// @ts-check
// Runs the tests of what uses the inside of Node with the newest Node of each major version that is supported, by default 22, 24 and 26:
// `node tools/test-nodes.mjs [MAJOR …]`. Downloads these from the npm registry, once each.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { fetchNode } from './node-headers.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const MAJORS = ['22', '24', '26']
/** Moves of TLS connections, WebSockets, sessions of socket.io and streams, and the end of HTTP/2 sessions. */
const TESTS = [
  'test/unit/connections',
  'test/unit/node',
  'test/unit/socket-io',
  'test/unit/streams',
  'test/unit/tls',
  'test/unit/ws',
  'test/property/tls-record-layer.test.ts',
  'test/property/tls-records.test.ts',
  'test/e2e/auto-web-sockets.test.ts',
  'test/e2e/browsers.test.ts',
  'test/e2e/event-streams.test.ts',
  'test/e2e/http2-leaves.test.ts',
  'test/e2e/https-moves.test.ts',
  'test/e2e/proxy-tls-moves.test.ts',
  'test/e2e/proxy-tls-upgrade.test.ts',
  'test/e2e/proxy-tls.test.ts',
  'test/e2e/socket-io.test.ts',
  'test/e2e/tls-drain.test.ts',
  'test/e2e/tls-tickets.test.ts',
  'test/e2e/web-sockets.test.ts',
]
const LONG_TESTS = ['test/e2e/http2-clients.long.test.ts']

/** The newest version of a Node, as the registry has it. @param {string} name @param {string} major */
function newest(name, major) {
  const text = execFileSync('npm', ['view', `${name}@${major}`, 'version', '--json'], { encoding: 'utf8' })
  /** @type {string | string[]} */
  const versions = JSON.parse(text)
  const [first, ...rest] = [versions].flat()
  return rest.reduce((one, other) => (isNewer(other, one) ? other : one), String(first))
}

/** @param {string} one @param {string} other */
function isNewer(one, other) {
  return one.localeCompare(other, 'en', { numeric: true }) > 0
}

/** @param {string} bin the folder of a Node @param {readonly string[]} tests @param {NodeJS.ProcessEnv} [env] */
function passes(bin, tests, env = {}) {
  const PATH = `${bin}${delimiter}${process.env.PATH}`
  const vitest = ['node_modules/vitest/vitest.mjs', 'run', ...tests]
  const options = { cwd: root, env: { ...process.env, ...env, PATH } }
  return spawnSync(join(bin, 'node'), vitest, { ...options, stdio: 'inherit' }).status === 0
}

const missing = [...TESTS, ...LONG_TESTS].filter(test => !existsSync(join(root, test)))
if (missing.length > 0) throw new Error(`there is no ${missing.join(', ')}`)
const name = `node-${process.platform}-${process.arch}`
const asked = process.argv.slice(2)
for (const major of asked.length > 0 ? asked : MAJORS) {
  const version = newest(name, major)
  const folder = fetchNode(name, version, { whole: true })
  if (folder === undefined)
    throw new Error(`${name}@${version} could not be downloaded from the npm registry`)
  console.log(`\n== Node ${version}`)
  const bin = join(folder, 'bin')
  const passed = [passes(bin, TESTS), passes(bin, LONG_TESTS, { FD_BROKER_LANE: 'nightly' })]
  if (passed.includes(false)) process.exitCode = 1
}
