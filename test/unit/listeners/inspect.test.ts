import { describe, expect, it } from 'vitest'
import { inspect, inspectOne, OwnedFd } from '../../../src/kernel/index.js'
import { native } from '../../../src/kernel/native.js'
import {
  bindListener,
  formatAddress,
  parseListenerSpec,
  verifyIdentity,
} from '../../../src/listeners/index.js'

function listener(text: string): OwnedFd {
  return bindListener(parseListenerSpec(text))
}

describe('verifyIdentity', () => {
  it('gives null for the same object through dups, of every kind', () => {
    const pair = native.socketPair()
    for (const fd of [
      listener('tcp://127.0.0.1:0'),
      listener('udp://[::1]:0'),
      listener(`unix:@fdb-identity-${process.pid}`),
      OwnedFd.own(pair[0], 'a'),
      OwnedFd.own(native.memfd('m'), 'm'),
    ]) {
      using dup = fd.dup()
      const [first, second] = inspect([fd, dup])
      expect(verifyIdentity(first!, second!)).toBeNull()
      expect(verifyIdentity(JSON.parse(JSON.stringify(first)), second!)).toBeNull()
      fd.close()
    }
    native.close(pair[1])
  })

  it('names the difference', () => {
    using tcp = listener('tcp://127.0.0.1:0')
    using other = listener('tcp://127.0.0.1:0')
    using udp = listener('udp://127.0.0.1:0')
    using memory = OwnedFd.own(native.memfd('m'), 'm')
    using second = OwnedFd.own(native.memfd('m'), 'm')
    using unheard = OwnedFd.own(native.bindSocket({ kind: 'tcp', host: '127.0.0.1', port: 0 }), 'x')
    const [a, b, c, d, e, f] = inspect([tcp, other, udp, memory, second, unheard])
    expect(verifyIdentity(a!, b!)).toMatch(/expected the socket tcp:\/\/127.* with cookie \d+, got tcp:/)
    expect(verifyIdentity(a!, c!)).toMatch(/^socketType of tcp:.* should be stream, got dgram$/)
    expect(verifyIdentity(a!, d!)).toBe('expected a socket, got a file')
    expect(verifyIdentity(d!, e!)).toMatch(/inode/)
    expect(verifyIdentity(a!, f!)).toMatch(/^accepting of tcp:.* should be true, got false$/)
    const { cookie: _, ...bare } = a!
    expect(verifyIdentity(bare, a!)).toBeNull()
    expect(verifyIdentity(bare, b!)).toMatch(/inode/)
    expect(verifyIdentity(a!, native.inspect([99_999])[0]!)).toBe('the descriptor is not usable (EBADF)')
  })
})

describe('formatAddress', () => {
  it.each(['tcp://127.0.0.1:', 'tcp://[::1]:', 'udp://127.0.0.1:'])(
    'writes %s as specifications do',
    start => {
      using fd = listener(`${start}0`)
      const text = formatAddress(inspectOne(fd))
      expect(text).toBe(`${start}${inspectOne(fd).port}`)
    },
  )

  it('names unix sockets and what is no socket', () => {
    using abstract = listener(`unix:@fdb-format-${process.pid}`)
    const [a, b] = native.socketPair()
    using one = OwnedFd.own(a, 'a')
    using two = OwnedFd.own(b, 'b')
    using memory = OwnedFd.own(native.memfd('m'), 'm')
    expect(inspect([abstract, one, two, memory]).map(formatAddress)).toEqual([
      `unix:@fdb-format-${process.pid}`,
      'unix:',
      'unix:',
      'file',
    ])
  })

  it('refuses to inspect what was closed', () => {
    const fd = OwnedFd.own(native.memfd('m'), 'closed one')
    fd.close()
    expect(() => inspect([fd])).toThrow(expect.objectContaining({ code: 'ERR_FDB_FD_CLOSED' }))
  })
})
