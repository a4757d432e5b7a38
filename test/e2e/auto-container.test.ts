import { expect, it } from 'vitest'
import { PidNamespace } from '../processes/namespace.js'
import { until } from '../processes/until.js'
import { AutoProgram } from './auto-program.js'

it('PID 1 of a container keeps its place when a program under fd-broker/auto is upgraded there, and TERM ends all', async () => {
  const program = await AutoProgram.of(`import http from 'node:http'
const server = http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
process.on('SIGTERM', () => server.close(() => process.exit(0)))
`)
  const { env, log } = program.desk
  const container = await PidNamespace.start(program.words('import', { FD_BROKER_PROBATION: '0' }, []), {
    env,
    log,
  })
  await program.serves(1)
  for (const generation of [2, 3]) {
    await program.command('upgrade')
    await program.serves(generation)
  }
  await until('a successor answers', async () => {
    const answer = await (await fetch(program.url, { headers: { connection: 'close' } })).text()
    return /^pid (?!1$)\d+$/.test(answer) || null
  })
  container.signal('SIGTERM')
  expect(await container.exit).toBe(0)
})
