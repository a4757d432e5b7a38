// Says "ready". For each "bind" it binds a Unix path, says how that went, and holds it until "close", to which it says "closed".
import { createInterface } from 'node:readline'
import type { OwnedFd } from '../../../src/kernel/index.js'
import { bindListener, parseListenerSpec } from '../../../src/listeners/index.js'

const spec = parseListenerSpec(`unix:${process.argv[2]}`)
const held: OwnedFd[] = []

function bind(): string {
  try {
    held.push(bindListener(spec))
    return 'bound'
  } catch (error) {
    return (error as { code: string }).code
  }
}

process.stdout.write('ready\n')
for await (const order of createInterface({ input: process.stdin })) {
  if (order === 'bind') process.stdout.write(`${bind()}\n`)
  else {
    held.pop()?.close()
    process.stdout.write('closed\n')
  }
}
