// @ts-check
// Generates src/proto/NAME.ts from every proto/NAME.proto (before tsc runs), and removes generated files whose source no longer exists.
// Does not write unchanged files.
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import protobuf from 'protobufjs'
import { moduleOf } from './proto/module.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const sources = readdirSync(join(root, 'proto')).filter(file => file.endsWith('.proto'))
const kept = ['message.ts', ...sources.map(file => file.replace(/\.proto$/, '.ts'))]
for (const file of readdirSync(join(root, 'src/proto')))
  if (!kept.includes(file)) rmSync(join(root, 'src/proto', file))

for (const file of sources) {
  const messages = new protobuf.Root().loadSync(join(root, 'proto', file))
  messages.resolveAll()
  const target = join(root, 'src/proto', file.replace(/\.proto$/, '.ts'))
  const code = moduleOf(messages, file)
  if (existsSync(target) && readFileSync(target, 'utf8') === code) continue
  writeFileSync(target, code)
  console.log(`proto: ${file} -> src/proto/${file.replace(/\.proto$/, '.ts')}`)
}
