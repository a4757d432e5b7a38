import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import type { FdbError } from '../../src/errors.js'
import { OperatorClient } from '../../src/operator/client.js'
import { COMMAND_BYTES } from '../../src/operator/requests.js'
import { NIGHTLY, perLane } from '../lanes/lane.js'
import { daemonStatus } from '../processes/daemon.js'
import { signalPid } from '../processes/launch.js'
import { until } from '../processes/until.js'
import { Sandbox } from './cli-processes.js'

const MEMBER = fileURLToPath(new URL('command-member.mjs', import.meta.url))
const codeOf = (call: Promise<unknown>) =>
  call.then(
    () => 'fulfilled',
    (error: FdbError) => error.code,
  )

async function launch(sandbox: Sandbox, hosting: string, count = 1): Promise<number> {
  const pid = await sandbox.launch([process.execPath, MEMBER, sandbox.control, hosting])
  await until(
    'the member serves',
    () => sandbox.output.split('serving').length > count,
    10_000,
    () => sandbox.output,
  )
  return pid
}

async function open(hosting: string): Promise<{ sandbox: Sandbox; pid: number; client: OperatorClient }> {
  const sandbox = Sandbox.open()
  if (hosting === 'daemon') {
    await sandbox.serve('--control', sandbox.control, '--log-level', 'silent')
    await until('the daemon listens', () => sandbox.output.includes('listens'))
  }
  const pid = await launch(sandbox, hosting)
  return { sandbox, pid, client: await OperatorClient.connect(sandbox.control) }
}

describe.each(['embedded', 'daemon'])('commands of an application (%s)', hosting => {
  it('reach the process that serves, and bring its reply', async () => {
    const { pid, client } = await open(hosting)
    expect((await client.command('echo', 'hello')).toString()).toBe('hello')
    expect((await client.command('echo', '')).length).toBe(0)
    expect((await client.command('silent', '')).length).toBe(0)
    expect((await client.command('who', '')).toString()).toBe(String(pid))
    expect((await client.command('note', 'x')).toString()).toBe('1')
    const replies = await Promise.all(['a', 'b', 'c'].map(text => client.command('echo', text)))
    expect(replies.map(String)).toEqual(['a', 'b', 'c'])
    client.close()
  })

  it.runIf(NIGHTLY || hosting === 'embedded')('tell why they were not done', async () => {
    const { client } = await open(hosting)
    await expect(client.command('refuse', '')).rejects.toMatchObject({
      code: 'ERR_FDB_CHECK',
      message: 'not today',
      retryable: true,
    })
    await expect(client.command('break', '')).rejects.toMatchObject({
      code: 'ERR_FDB_INTERNAL',
      message: 'broken',
    })
    await expect(client.command('nothing', '')).rejects.toMatchObject({ code: 'ERR_FDB_COMMAND_UNKNOWN' })
    client.close()
  })

  it.runIf(NIGHTLY || hosting === 'daemon')('stay within limits in both directions', async () => {
    const { client } = await open(hosting)
    expect(await codeOf(client.command('echo', Buffer.alloc(COMMAND_BYTES + 1)))).toBe('ERR_FDB_COMMAND_SIZE')
    expect((await client.command('echo', Buffer.alloc(COMMAND_BYTES))).length).toBe(COMMAND_BYTES)
    expect(await codeOf(client.command('large', String(COMMAND_BYTES + 1)))).toBe('ERR_FDB_COMMAND_SIZE')
    client.close()
  })

  it('go to the next version once that one serves', async () => {
    const { sandbox, client } = await open(hosting)
    const next = await launch(sandbox, hosting, 2)
    const answer = await client.command('who', '').catch((error: FdbError) => error)
    // The old connection is the old process's, which has been replaced; a daemon's leads to the serving process.
    if (answer instanceof Buffer) expect(answer.toString()).toBe(String(next))
    else expect(answer).toMatchObject({ code: 'ERR_FDB_FENCED', retryable: true })
    using other = await OperatorClient.connect(sandbox.control)
    expect((await other.command('who', '')).toString()).toBe(String(next))
    client.close()
  })

  it.runIf(NIGHTLY || hosting === 'daemon')('fail when the process ends before it has answered', async () => {
    const { pid, client } = await open(hosting)
    const asked = codeOf(client.command('large', String(COMMAND_BYTES)))
    signalPid(pid, 'SIGKILL')
    expect(['ERR_FDB_CHANNEL_CLOSED', 'ERR_FDB_BUSY', 'fulfilled']).toContain(await asked)
    const after = await codeOf(client.command('who', ''))
    expect(['ERR_FDB_CHANNEL_CLOSED', 'ERR_FDB_BUSY']).toContain(after)
    client.close()
  })
})

// The daemon waits a second for the status of a member that is stopped.
it('a command that a daemon has passed to a stopped process does not begin if its sender has gone by then', async () => {
  const { sandbox, pid, client } = await open('daemon')
  signalPid(pid, 'SIGSTOP')
  client.command('note', 'late').catch(() => {})
  // The daemon has passed it on when it answers a question that came later.
  await daemonStatus(sandbox.control)
  client.close()
  await daemonStatus(sandbox.control)
  signalPid(pid, 'SIGCONT')
  using next = await OperatorClient.connect(sandbox.control)
  expect((await next.command('note', 'in time')).toString()).toBe('1')
})

describe.each(perLane(['embedded'], ['embedded', 'daemon']))(
  'listeners that change while the process serves (%s)',
  hosting => {
    it('move to another address, or go', async () => {
      const { sandbox, client } = await open(hosting)
      const service = async () => {
        const answer = await client.status()
        return 'services' in answer ? answer.services![0]! : answer
      }
      const urlNow = async () => (await service()).listeners?.[0]?.address?.replace('tcp:', 'http:')
      const before = (await urlNow())!
      const after = (await client.command('move', '')).toString().replace('tcp:', 'http:')
      expect(after).not.toBe(before)
      expect(await (await fetch(after)).text()).not.toBe('')
      await until('the old address is closed', () =>
        fetch(before).then(
          () => false,
          () => true,
        ),
      )
      expect(await urlNow()).toBe(after)
      await client.command('shut', '')
      await until('the new address is closed', () =>
        fetch(after).then(
          () => false,
          () => true,
        ),
      )
      expect((await service()).listeners).toEqual([])
      client.close()
      expect(sandbox.output).not.toContain('Error')
    })
  },
)
