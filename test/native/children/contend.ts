// Says "ready", binds a Unix path when told to, says how that went, and holds it until its input ends.
import { once } from 'node:events'
import { bindListener, parseListenerSpec } from '../../../src/listeners/index.js'

process.stdout.write('ready\n')
await once(process.stdin, 'data')
try {
  const fd = bindListener(parseListenerSpec(`unix:${process.argv[2]}`))
  process.stdout.write('bound\n')
  await once(process.stdin, 'end')
  fd.close()
} catch (error) {
  process.stdout.write(`${(error as { code: string }).code}\n`)
  await once(process.stdin, 'end')
}
