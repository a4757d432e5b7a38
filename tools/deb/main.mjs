#!/usr/bin/env node
// @ts-check
// `npm run package:deb -- [--tarball FILE] [--out FOLDER] [--arch amd64|arm64]...`: makes Debian packages of the commands from the npm tarball;
// packs a tarball first if none is given.
import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { outputOf } from '../release/run.mjs'
import { pack } from '../release/tarball.mjs'
import { writeDeb } from './archive.mjs'
import { ARCHITECTURES, debianVersion } from './control.mjs'
import { layOut } from './tree.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const { values } = parseArgs({
  options: {
    tarball: { type: 'string' },
    out: { type: 'string', default: join(root, 'release') },
    arch: { type: 'string', multiple: true, default: Object.keys(ARCHITECTURES) },
  },
})
const out = resolve(values.out)
const staged = mkdtempSync(join(tmpdir(), 'fdb-deb-'))
try {
  const tarball = resolve(values.tarball ?? pack(root, join(staged, 'packed')).file)
  execFileSync('tar', ['-xzf', tarball, '-C', staged])
  const unpacked = join(staged, 'package')
  const manifest = JSON.parse(readFileSync(join(unpacked, 'package.json'), 'utf8'))
  const time = new Date(outputOf('git', ['log', '-1', '--format=%cI'], root))
  mkdirSync(out, { recursive: true })
  for (const architecture of values.arch) {
    const tree = join(staged, architecture)
    layOut(tree, { root, unpacked, manifest, architecture })
    const file = join(out, `fd-broker_${debianVersion(manifest.version)}_${architecture}.deb`)
    writeDeb(tree, file, time)
    console.log(relative(process.cwd(), file))
  }
} finally {
  rmSync(staged, { recursive: true, force: true })
}
