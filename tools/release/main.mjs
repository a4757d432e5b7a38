#!/usr/bin/env node
// @ts-check
// `npm run release -- --dry-run [--sha256 HEX] [STAGE...]`: makes a release in release/, and does not publish it. Without --dry-run only
// .github/workflows/release.yml can run this; each of its jobs runs one stage.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { STAGES } from './stages.mjs'
import { workflowOf } from './workflow.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const names = Object.keys(STAGES)

/** @param {string} why @returns {never} */
function refuse(why) {
  console.error(`release: ${why}`)
  process.exit(2)
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { 'dry-run': { type: 'boolean', default: false }, sha256: { type: 'string' } },
})
const unknown = positionals.find(name => !names.includes(name))
if (unknown !== undefined) refuse(`there is no stage "${unknown}"; there are ${names.join(', ')}`)
const workflow = workflowOf(process.env)
if (!values['dry-run'] && workflow === null)
  refuse('only .github/workflows/release.yml can release; run npm run release -- --dry-run here')

/** @type {import('./stages.mjs').Release} */
const release = {
  root,
  folder: join(root, 'release'),
  manifest: JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')),
  dryRun: values['dry-run'],
  sha256: values.sha256,
  workflow,
}
for (const name of names) {
  if (positionals.length > 0 && !positionals.includes(name)) continue
  console.log(`\n== ${name}`)
  try {
    await STAGES[name]?.(release)
  } catch (error) {
    console.error(`release: ${name}: ${error instanceof Error ? error.message : error}`)
    process.exit(1)
  }
}
