import http from 'node:http'
import { recoverSockets } from 'fd-broker/socket.io'
import { Server } from 'socket.io'
import { describe, expect, it, onTestFinished } from 'vitest'

function attached(): Server {
  const server = new Server(http.createServer())
  onTestFinished(() => void server.close())
  return server
}

describe('recoverSockets()', () => {
  it('refuses what is no server of socket.io', () => {
    // @ts-expect-error: no server
    expect(() => recoverSockets({})).toThrow('is no server of socket.io')
    // @ts-expect-error: no server
    expect(() => recoverSockets(null)).toThrow('is no server of socket.io')
  })

  it('refuses a server that is not attached, and a name that is taken', () => {
    expect(() => recoverSockets(new Server())).toThrow('before the server of socket.io was attached')
    recoverSockets(attached(), { name: 'one' })
    expect(() => recoverSockets(attached(), { name: 'one' })).toThrow('give each the option "name"')
    recoverSockets(attached(), { name: 'two' })
  })

  it('takes another server of the same name when the first one has closed', async () => {
    const first = attached()
    recoverSockets(first, { name: 'three' })
    await first.close()
    const next = attached()
    recoverSockets(next, { name: 'three' })
    expect(() => recoverSockets(attached(), { name: 'three' })).toThrow('give each the option "name"')
  })
})
