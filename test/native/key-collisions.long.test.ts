import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, it, onTestFinished } from 'vitest'
import { findNodedir } from '../../tools/node-headers.mjs'
import { perLane } from '../lanes/lane.js'

const SOURCE = fileURLToPath(new URL('children/colliding-keys.c', import.meta.url))
const silent = () => {}
const CALLS = '100000'
/** As binding.gyp has them for the sanitizer variant. Functions that call Node are left out: this program has no Node. */
const FLAGS = [
  ...['-std=c11', '-DNAPI_VERSION=9', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror', '-g', '-O1'],
  ...['-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
  ...['-ffunction-sections', '-Wl,--gc-sections'],
]

it('an index of keys has the values of each key also if the hashes of two keys are the same', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-keys-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const program = join(folder, 'colliding-keys')
  const include = join(findNodedir(silent), 'include', 'node')
  const { LD_PRELOAD: _, ...env } = process.env
  execFileSync('cc', [...FLAGS, `-I${include}`, '-o', program, SOURCE], { env })
  for (let seed = 1; seed <= perLane(1, 30); seed++) {
    const printed = execFileSync(program, [`${seed}`, CALLS], { env, encoding: 'utf8' })
    // 800 keys have the hash of another key; the index was divided into 256 parts.
    expect([seed, printed]).toEqual([seed, '800 256\n'])
  }
})
