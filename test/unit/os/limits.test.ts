import { expect, it, vi } from 'vitest'
import { outOfDescriptors } from '../../../src/os/limits.js'

vi.mock('../../../src/kernel/index.js', async original => ({
  ...(await original<object>()),
  procText: () => '',
}))

it('says of a process without a free descriptor, which cannot read its limit, that it has reached it', () => {
  const { message } = outOfDescriptors('nothing opens', Object.assign(new Error('full'), { code: 'EMFILE' }))
  expect(message).toMatch(
    /^nothing opens \(EMFILE\): process \d+ has \d+ descriptors open and may have no more: /,
  )
})
