import { expect, it, onTestFinished } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { addUpgrade, Command } from '../../fixtures/cli.js'
import { untyped } from '../../fixtures/untyped.js'
import { askedService } from '../../processes/asked-service.js'

it('fd-broker upgrade --self reports the refusal of the supervisor, and waits for no next one', async () => {
  const busy = new FdbError('ERR_FDB_BUSY', 'a version is being started', { retryable: true })
  const { control, questions } = await askedService(() => Promise.reject(busy))
  const supervisor = untyped<{ pid: number }>({ pid: 1, supervisor: { replaced: 0 } })
  const answering = setInterval(() => {
    for (const answer of questions.splice(0)) answer(supervisor)
  }, 5)
  onTestFinished(() => clearInterval(answering))
  const program = new Command()
  addUpgrade(program)
  const words = ['upgrade', '--self', '--control', control, '--timeout', '3s']
  await expect(program.parseAsync(['node', 'fd-broker', ...words])).rejects.toMatchObject({
    code: 'ERR_FDB_BUSY',
  })
})
