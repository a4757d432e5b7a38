import { afterEach, expect, it, vi } from 'vitest'
import { ForwardedCommands } from '../../../src/daemon/service/service-operations.js'
import { COMMAND_MS } from '../../../src/operator/requests.js'
import { linked, peerWith } from '../../holder-support/processes.js'
import { until } from '../../processes/until.js'

afterEach(() => void vi.useRealTimers())

/** A command that a daemon has passed to a member. */
function forwarded() {
  const { link, heard } = linked()
  const peer = peerWith({ pid: 7, link })
  const commands = new ForwardedCommands()
  const sender = new AbortController()
  const order = { name: 'x', body: Buffer.alloc(0), service: '' }
  const reply = commands.ask(peer, order, { signal: sender.signal })
  reply.catch(() => {})
  const cancelled = () => heard.flatMap(({ cancelCommand }) => cancelCommand?.request ?? [])
  const passed = () => heard.flatMap(({ command }) => command?.request ?? [])
  return { cancelled, commands, heard, link, passed, peer, reply, sender }
}

it('the member hears that the sender of its command has gone', async () => {
  const { cancelled, passed, reply, sender } = forwarded()
  sender.abort(new Error('the operator has disconnected'))
  await expect(reply).rejects.toThrow('the operator has disconnected')
  await until('the member has heard it', () => cancelled().length > 0)
  expect(cancelled()).toEqual(passed())
})

it('the member hears that its daemon waits for no reply any more', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] })
  const { cancelled, passed, reply } = forwarded()
  await vi.advanceTimersByTimeAsync(COMMAND_MS)
  await expect(reply).rejects.toMatchObject({ code: 'ERR_FDB_DEADLINE' })
  vi.useRealTimers()
  await until('the member has heard it', () => cancelled().length > 0)
  expect(cancelled()).toEqual(passed())
})

it('the member hears nothing of a sender that goes after the reply', async () => {
  const { cancelled, commands, heard, link, passed, peer, reply, sender } = forwarded()
  await until('the member has the command', () => passed().length > 0)
  commands.handleReply(peer, { request: passed()[0]!, ok: true })
  await reply
  sender.abort()
  await link.send({ released: {} })
  await until('the member has read all', () => heard.some(({ released }) => released))
  expect(cancelled()).toEqual([])
})

it('the sender hears that the connection to the member has broken', async () => {
  const { commands, peer, reply } = forwarded()
  commands.changed()
  Object.assign(peer, linked())
  commands.changed()
  await expect(reply).rejects.toMatchObject({ code: 'ERR_FDB_CHANNEL_CLOSED', retryable: true })
})
