import { expect, it, vi } from 'vitest'
import { CodeSnapshot } from '../../../src/cli/proxy.js'
import { successorCommand } from '../../../src/os/command-line.js'

vi.mock('../../../src/os/command-line.js', async original => ({
  ...(await original<object>()),
  successorCommand: vi.fn(),
}))

it('serves on where its own command leads nowhere, as when it was given another name, and says so when it is asked', () => {
  const nowhere = () => {
    throw new Error('cannot resolve own binary')
  }
  vi.mocked(successorCommand).mockImplementation(nowhere)
  const code = new CodeSnapshot()
  expect(() => code.changed()).toThrow('cannot resolve own binary')
  const command = { file: process.execPath, argv: ['node'], cwd: process.cwd(), env: {} }
  vi.mocked(successorCommand).mockReturnValue(command)
  expect(code.changed()).toContain('node')
})
