import { createSocket, type Socket } from 'node:dgram'
import http from 'node:http'
import { text } from 'node:stream/consumers'
import { describe, expect, it, onTestFinished, vi } from 'vitest'
import { join, type Member, serveDaemon } from '../../../src/index.js'
import { OperatorClient } from '../../../src/operator.js'
import { freePort, Scene } from '../../processes/scene.js'
import { until } from '../../processes/until.js'

async function serving(): Promise<{ member: Member; port: number; server: http.Server }> {
  const { control } = Scene.open()
  const member = await join({ service: 'shop', control })
  onTestFinished(() => member.close({ timeout: 0 }))
  const port = await freePort()
  const web = await member.listen('web', `tcp://127.0.0.1:${port}`)
  const server = http.createServer((_request, response) => response.end('answered'))
  web.serve(server)
  return { member, port, server }
}

/** Sends a request. Behind the next tick the connection waits in the kernel's queue: the server accepts in a later turn of the event loop. */
async function ask(port: number): Promise<string> {
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
    http.get({ host: '127.0.0.1', port, agent: false }, resolve).once('error', reject)
  })
  return await text(response)
}

describe('a client that waits in the queue of a listener gets its answer', () => {
  it('although the listener is closed', async () => {
    const { member, port } = await serving()
    await member.ready()
    const answers = Promise.all([ask(port), ask(port)])
    process.nextTick(() => member.unlisten('web'))
    expect(await answers).toEqual(['answered', 'answered'])
  })

  it('although the listener gets another address', async () => {
    const { member, port } = await serving()
    await member.ready()
    const other = await freePort()
    const answer = ask(port)
    process.nextTick(() => void member.relisten('web', `tcp://127.0.0.1:${other}`))
    expect(await answer).toBe('answered')
  })

  it('although the service ends', async () => {
    const { member, port } = await serving()
    let answer: Promise<string> | undefined
    member.whileServing(() => () => {
      answer = ask(port)
      return new Promise<void>(process.nextTick)
    })
    await member.ready()
    await member.close()
    expect(await answer).toBe('answered')
  })
})

/**
 * Two versions: the first one serves at two addresses, the next one at one of them, whose listener it calls `name`. `elsewhere`: the next version also has
 * a listener of this name, at a third address.
 */
async function givingUp(
  hosting: 'embedded' | 'daemon',
  name: string,
  { probation = 300, elsewhere = '' } = {},
) {
  const { control } = Scene.open()
  const upgrade = { probation, heartbeat: 50 }
  if (hosting === 'daemon') {
    const daemon = await serveDaemon({ control, upgrade })
    onTestFinished(() => daemon.close())
  }
  const ports = [await freePort(), await freePort(), await freePort()] as const
  const datagrams: Socket[] = []
  const version = async (answer: string, names: readonly (readonly [string, number])[]) => {
    const member = await join({ service: 'shop', control, hosting, upgrade, drain: { timeout: 2_000 } })
    onTestFinished(() => member.close({ timeout: 0 }))
    for (const [each, port] of names) {
      const listener = await member.listen(each, `tcp://127.0.0.1:${port}`)
      listener.serve(http.createServer((_request, response) => response.end(answer)))
      if (each !== 'old' || answer !== 'first') continue
      const socket = createSocket('udp4')
      socket.on('message', (text, { port, address }) => socket.send(`${answer} ${text}`, port, address))
      const udp = await member.listen('datagrams', `udp://127.0.0.1:${port}`)
      udp.serve(socket)
      datagrams.push(socket)
    }
    await member.ready({ unserved: true })
    return member
  }
  const first = await version('first', [
    ['web', ports[0]],
    ['old', ports[1]],
  ])
  const other = elsewhere === '' ? [] : [[elsewhere, ports[2]] as const]
  const next = await version('next', [[name, ports[0]], ...other])
  await until('the first version stands by', () => !['serving', 'frozen'].includes(first.phase))
  return { control, datagrams, first, next, ports }
}

describe.each(['embedded', 'daemon'] as const)('a listener that the next version gives up (%s)', hosting => {
  it('answers the clients that have come in the probation', async () => {
    const { first, ports } = await givingUp(hosting, 'web')
    const answers = [ask(ports[1]), ask(ports[1]), ask(ports[0])]
    expect(await Promise.all(answers)).toEqual(['first', 'first', 'next'])
    await first.retired
    await expect(ask(ports[1])).rejects.toThrow('ECONNREFUSED')
  })

  it('answers them although the next version has a listener of its name at another address', async () => {
    const { first, ports } = await givingUp(hosting, 'web', { elsewhere: 'old' })
    const answers = [ask(ports[1]), ask(ports[1]), ask(ports[0]), ask(ports[2])]
    expect(await Promise.all(answers)).toEqual(['first', 'first', 'next', 'next'])
    await first.retired
    await expect(ask(ports[1])).rejects.toThrow('ECONNREFUSED')
  })

  it('answers the datagrams that have come in the probation', async () => {
    const { datagrams, first, ports } = await givingUp(hosting, 'web')
    const client = createSocket('udp4')
    onTestFinished(() => void client.close())
    const answers: string[] = []
    client.on('message', answer => answers.push(String(answer)))
    for (const text of ['1', '2', '3']) client.send(text, ports[1], '127.0.0.1')
    await first.retired
    await expect.poll(() => answers).toEqual(['first 1', 'first 2', 'first 3'])
    expect(() => datagrams[0]!.address()).toThrow()
  })

  it('answers them although the service is stopped in the probation', async () => {
    const { control, first, ports } = await givingUp(hosting, 'web', { probation: 60_000 })
    const answers = [ask(ports[1]), ask(ports[1])]
    using client = await OperatorClient.connect(control)
    const service = hosting === 'daemon' ? 'shop' : ''
    await client.command('service.stop', JSON.stringify({ timeoutMs: null, drop: false }), { service })
    expect(await Promise.all(answers)).toEqual(['first', 'first'])
    await first.retired
  })

  it('belongs to the next version if that has another name for it', async () => {
    const { first, ports } = await givingUp(hosting, 'other')
    const answers: Promise<string>[] = []
    const timer = setInterval(() => answers.push(ask(ports[0])), 1)
    await first.retired
    clearInterval(timer)
    expect(new Set(await Promise.all(answers))).toEqual(new Set(['next']))
  })
})

describe.each(['embedded', 'daemon'] as const)('a listener that only the next version has (%s)', hosting => {
  it.each([
    [
      'an operator rolls that version back',
      async (control: string, service: string) => {
        using client = await OperatorClient.connect(control)
        await client.command('service.rollback', '', { service })
      },
    ],
    ['that version closes', async (_control: string, _service: string, next: Member) => await next.close()],
  ])('answers its clients when %s', async (_when, leave) => {
    const { control, next, ports } = await givingUp(hosting, 'web', { probation: 60_000, elsewhere: 'extra' })
    const outcomes = new Map<string, number>()
    let over = false
    const client = async () => {
      while (!over) {
        const outcome = await ask(ports[2]).catch(
          (error: NodeJS.ErrnoException) => error.code ?? error.message,
        )
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1)
        if (outcome === 'ECONNREFUSED') return
      }
    }
    const clients = Array.from({ length: 20 }, client)
    await until('clients get answers', () => (outcomes.get('next') ?? 0) > 20)
    await leave(control, hosting === 'daemon' ? 'shop' : '', next)
    await next.retired
    setTimeout(() => {
      over = true
    }, 2_000)
    await Promise.all(clients)
    expect([...outcomes.keys()].sort()).toEqual(['ECONNREFUSED', 'next'])
  })
})

it('a listener that was given up accepts for as long as a daemon or the next version may have it', async () => {
  const start = setTimeout
  const ends: (() => void)[] = []
  // Nothing tells a member of a daemon when the others have closed the listener: it waits for a second.
  const timers = vi.spyOn(globalThis, 'setTimeout').mockImplementation(((act: () => void, ms?: number) => {
    if (ms !== 1_000) return start(act, ms)
    ends.push(act)
    return start(() => {}, 0)
  }) as typeof setTimeout)
  onTestFinished(() => timers.mockRestore())
  const { first, ports } = await givingUp('daemon', 'web')
  expect(await ask(ports[1])).toBe('first')
  timers.mockRestore()
  expect(await ask(ports[1])).toBe('first')
  const last = ask(ports[1])
  process.nextTick(() => {
    for (const end of ends) end()
  })
  expect(await last).toBe('first')
  await first.retired
})

it('a server that its program has closed gets no further connection when its listener is closed', async () => {
  const { member, port, server } = await serving()
  await member.ready()
  server.close()
  const answer = ask(port)
  process.nextTick(() => member.unlisten('web'))
  await expect(answer).rejects.toThrow('ECONNRESET')
})
