import { describe, expect, it } from 'vitest'
import { RequestReader } from '../../../src/http1/index.js'
import { readRequest, requestWith, rewriteRequest } from '../../http1-support/read.js'

const hosted = (host: string) => readRequest(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`).authority

describe('a host that was named before', () => {
  it('never looks like another one, however many there are', () => {
    const names = Array.from({ length: 5_000 }, (_, i) => `h${(i * 7_919) % 5_000}.example`)
    for (const round of [0, 1]) {
      for (const name of names) expect(hosted(name)).toEqual({ host: name, port: undefined })
      for (const [i, name] of names.entries()) {
        if (i % 50 === round) expect(hosted(`${name.toUpperCase()}:${i}`)).toEqual({ host: name, port: i })
      }
    }
  })

  it('has the same string again, from the second time on', () => {
    hosted('Again.example:1')
    expect(hosted('Again.example:1')).toBe(hosted('Again.example:1'))
    expect(Object.isFrozen(hosted('again.example'))).toBe(true)
  })
})

describe('a head that is a view of what was read', () => {
  it('reads right behind another one in the same bytes, and in bytes that came one by one', () => {
    const texts = ['/a?b', '/c', '/d'].map((target, i) =>
      requestWith(
        `X-A: ${i}`,
        'Cookie: c',
        ...Array.from({ length: 20 * i }, (_, n) => `X-${n}: ${n}`),
      ).replace('/ ', `${target} `),
    )
    const bytes = Buffer.from(texts.join(''), 'latin1')
    const [whole, single] = [new RequestReader(), new RequestReader()]
    let [at, fed] = [0, 0]
    for (const text of texts) {
      expect(rewriteRequest(whole.read(bytes, at)!)).toBe(text)
      at += whole.consumed
      let head = null
      while (head === null) head = single.read(bytes, fed, ++fed)
      expect(rewriteRequest(head)).toBe(text)
    }
    expect([at, fed]).toEqual([bytes.length, bytes.length])
  })

  it('goes on whole, however long it is', () => {
    const text = requestWith(...Array.from({ length: 90 }, (_, i) => `X-${i}: ${'v'.repeat(100 + i)}`))
    expect(rewriteRequest(readRequest(text), { extra: `X: ${'y'.repeat(9_000)}\r\n` })).toBe(
      `${text.slice(0, -2)}X: ${'y'.repeat(9_000)}\r\n\r\n`,
    )
  })
})
