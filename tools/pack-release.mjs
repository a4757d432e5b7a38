// @ts-check
// `node tools/pack-release.mjs [CHECKOUT] [FOLDER]`: packs the built JavaScript of a checkout as FOLDER/fd-broker-VERSION.tgz (default folder:
// test/fixtures/releases), where tests take earlier releases from. Build the checkout first. The archive is reproducible: the same commit
// gives the same bytes if tar and gzip are the same.
import { execFileSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('..', import.meta.url))
const [checkout = here, folder = join(here, 'test/fixtures/releases')] = process.argv
  .slice(2)
  .map(path => resolve(path))

/** The keys of package.json that a running package needs. */
const KEPT = ['name', 'version', 'license', 'type', 'engines', 'exports', 'imports', 'bin', 'dependencies']

/** @param {string} why @returns {never} */
function refuse(why) {
  console.error(`pack-release: ${why}`)
  process.exit(1)
}

/** @param {string[]} args */
const git = (...args) => execFileSync('git', ['-C', checkout, ...args], { encoding: 'utf8' }).trim()

if (!existsSync(join(checkout, 'dist/index.js'))) refuse(`${checkout} is not built: run npm run build there`)
if (git('status', '--porcelain') !== '') refuse(`${checkout} has uncommitted changes`)
const whole = JSON.parse(readFileSync(join(checkout, 'package.json'), 'utf8'))
const manifest = Object.fromEntries(KEPT.filter(key => key in whole).map(key => [key, whole[key]]))
const archive = join(folder, `fd-broker-${manifest.version}.tgz`)
if (existsSync(archive)) refuse(`${archive} exists: a release must not change`)

const staged = mkdtempSync(join(tmpdir(), 'fdb-pack-'))
try {
  const root = join(staged, 'package')
  cpSync(join(checkout, 'dist'), join(root, 'dist'), {
    recursive: true,
    filter: from => !/\.(d\.ts|map)$/.test(from) && from !== join(checkout, 'dist/types'),
  })
  for (const file of readdirSync(root, { recursive: true, encoding: 'utf8' })) {
    if (!file.endsWith('.js')) continue
    // The archive has no source maps, so its files must not refer to them.
    const code = readFileSync(join(root, file), 'utf8')
    writeFileSync(join(root, file), code.replace(/^\/\/# sourceMappingURL=.*\n?/m, ''))
  }
  writeFileSync(join(root, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
  const commit = git('rev-parse', 'HEAD')
  writeFileSync(
    join(root, 'release.json'),
    `${JSON.stringify({ version: manifest.version, commit }, null, 2)}\n`,
  )
  const sorted = [
    '--sort=name',
    '--mtime=@0',
    '--owner=0',
    '--group=0',
    '--numeric-owner',
    '--mode=a+rX,u+w,go-w',
  ]
  mkdirSync(folder, { recursive: true })
  execFileSync('tar', [...sorted, '-C', staged, '-I', 'gzip -9n', '-cf', archive, 'package'])
  console.log(`${archive}: version ${manifest.version}, commit ${commit}`)
} finally {
  rmSync(staged, { recursive: true, force: true })
}
