import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onTestFinished } from 'vitest'
import { serveDaemon } from '../../src/index.js'
import { OperatorClient } from '../../src/operator.js'

/** A client of a daemon in this process, until the test has ended. */
export async function daemonClient(): Promise<OperatorClient> {
  const folder = mkdtempSync(join(tmpdir(), 'fdb-daemon-'))
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
  const control = join(folder, 'control.sock')
  const daemon = await serveDaemon({ control })
  onTestFinished(() => daemon.close())
  const client = await OperatorClient.connect(control)
  onTestFinished(() => client.close())
  return client
}
