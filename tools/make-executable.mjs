// @ts-check
// tsc writes the command without the right to execute it: `npx fd-broker` in a clone, and a linked install, need that.
import { chmodSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = new URL('..', import.meta.url)
const { bin } = JSON.parse(readFileSync(new URL('package.json', root), 'utf8'))
for (const file of Object.values(bin)) chmodSync(fileURLToPath(new URL(String(file), root)), 0o755)
