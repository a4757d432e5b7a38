import http from 'node:http'
import { text } from 'node:stream/consumers'
import { onTestFinished } from 'vitest'
import { join, type Member } from '../../src/index.js'
import { startDaemon } from './daemon.js'
import { Scene } from './scene.js'

interface Address {
  readonly spec: string
  /** How a client connects to it. */
  readonly target: http.RequestOptions
}

interface Service {
  readonly hosting: 'embedded' | 'daemon'
  readonly upgrade: { readonly probation: number; readonly heartbeat: number; readonly silence: number }
  readonly address: (folder: string) => Address
}

/** Versions of one service, in this process, which listen as "web" at one address. */
export async function versionsAt({ hosting, upgrade, address }: Service) {
  const scene = Scene.open({ hosting, upgrade })
  if (hosting === 'daemon') await startDaemon(scene)
  const { spec, target } = address(scene.folder)
  const listens = async (member: Member, words: string, name = 'web') => {
    const listener = await member.listen(name, spec)
    listener.serve(http.createServer((_request, response) => response.end(words)))
  }
  const version = async (): Promise<Member> => {
    const member = await join({ service: 'shop', control: scene.control, hosting, upgrade })
    onTestFinished(() => member.close({ timeout: 0, handBack: false }))
    return member
  }
  const ask = async () => {
    const response = await new Promise<http.IncomingMessage>((resolve, reject) => {
      http.get({ ...target, agent: false, timeout: 5_000 }, resolve).once('error', reject)
    })
    return await text(response)
  }
  /** The first version serves, and the second one has joined and listens. */
  const two = async () => {
    const first = await version()
    await listens(first, 'first')
    await first.ready()
    const second = await version()
    await listens(second, 'second')
    return { first, second }
  }
  return { listens, ask, two }
}
