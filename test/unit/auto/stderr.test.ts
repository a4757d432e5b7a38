import { expect, it, vi } from 'vitest'
import { print } from '../../fixtures/auto.js'

let code = ''

vi.mock(import('node:fs'), async original => ({
  ...(await original()),
  writeSync: () => {
    throw Object.assign(new Error(code), { code })
  },
}))

it.each([
  ['has no reader', 'EPIPE'],
  ['is a closed terminal', 'EIO'],
  ['is full', 'EAGAIN'],
  ['is on a full disk', 'ENOSPC'],
])('a line for a stderr that %s is dropped: the program goes on', (_what, given) => {
  code = given
  expect(() => print('a line')).not.toThrow()
})
