import { fileURLToPath } from 'node:url'
import { beforeAll, expect, it } from 'vitest'
import { AutoProgram } from '../e2e/auto-program.js'
import { installed } from './installed.js'

let modules = ''

beforeAll(() => {
  modules = installed(fileURLToPath(new URL('.', import.meta.url)))
}, 300_000)

const JOBS: Readonly<Record<string, string>> = {
  'node-cron': "import cron from 'node-cron'; cron.schedule('0 3 * * *', () => {})",
  croner: "import { Cron } from 'croner'; new Cron('0 3 * * *', () => {})",
  'node-schedule': "import schedule from 'node-schedule'; schedule.scheduleJob('0 3 * * *', () => {})",
}

it.each(Object.keys(JOBS))(
  'under fd-broker/auto a replaced program names jobs of %s, and no timer of another package',
  async scheduler => {
    const program = await AutoProgram.of(
      `${JOBS[scheduler]}
import http from 'node:http'
import pg from 'pg'
new pg.Pool({ idleTimeoutMillis: 60_000 })
http.createServer((request, response) => response.end('pid ' + process.pid)).listen(8080)
`,
      'server.mjs',
      { modules },
    )
    const first = await program.serve()
    await program.answeredBy(await program.serve('import', 2))
    await program.says(`process ${first} was replaced, and until it ends its timers run`)
    expect(program.output).toContain(`may be done twice: jobs of ${scheduler}. Start a timer`)
  },
)
