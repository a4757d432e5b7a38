import { describe, expect, it } from 'vitest'
import { parseListeners } from '../../../src/cli/named-listeners.js'

describe('the texts of --listen', () => {
  it('have several listeners, separated by spaces, and paths with spaces', () => {
    const text = ' web=tcp://0.0.0.0:8080  admin=unix:/srv/my app/admin.sock?mode=0660\nlast=unix:/srv/z '
    expect(parseListeners(text)).toMatchObject([
      { name: 'web', spec: { kind: 'tcp', port: 8080 } },
      { name: 'admin', spec: { kind: 'unix', path: '/srv/my app/admin.sock', mode: 0o660 } },
      { name: 'last', spec: { kind: 'unix', path: '/srv/z' } },
    ])
  })

  it.each([
    'web',
    'a:b=tcp://0.0.0.0:8080',
    'web=tcp://0.0.0.0:80 web=tcp://0.0.0.0:81',
    'one web=tcp://0.0.0.0:80',
  ])('refuse %s', text => {
    expect(() => parseListeners([text])).toThrow(expect.objectContaining({ code: 'ERR_FDB_OPTION' }))
  })
})
