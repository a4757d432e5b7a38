import { expect, it, onTestFinished } from 'vitest'
import { FdbError } from '../../../src/errors.js'
import { addUpgrade, Command } from '../../fixtures/cli.js'
import { untyped } from '../../fixtures/untyped.js'
import { askedService } from '../../processes/asked-service.js'

/** Runs `fd-broker upgrade --self` for a service with this status that refuses the command. */
async function replaceSelf(refusal: FdbError, status: { pid: number }): Promise<unknown> {
  const { control, questions } = await askedService(() => Promise.reject(refusal))
  const answering = setInterval(() => {
    for (const answer of questions.splice(0)) answer(status)
  }, 5)
  onTestFinished(() => clearInterval(answering))
  const program = new Command()
  addUpgrade(program)
  const words = ['upgrade', '--self', '--control', control, '--timeout', '3s']
  return await program.parseAsync(['node', 'fd-broker', ...words])
}

it('fd-broker upgrade --self reports the refusal of the supervisor, and waits for no next one', async () => {
  const busy = new FdbError('ERR_FDB_BUSY', 'a version is being started', { retryable: true })
  const supervisor = untyped<{ pid: number }>({ pid: 1, supervisor: { replaced: 0 } })
  await expect(replaceSelf(busy, supervisor)).rejects.toMatchObject({ code: 'ERR_FDB_BUSY' })
})

it('fd-broker upgrade --self of a service that is no supervisor and no daemon names the remedy', async () => {
  const unknown = new FdbError(
    'ERR_FDB_COMMAND_UNKNOWN',
    'this service has no command "service.upgrade-self"',
  )
  await expect(replaceSelf(unknown, untyped<{ pid: number }>({ pid: 1 }))).rejects.toMatchObject({
    code: 'ERR_FDB_COMMAND_UNKNOWN',
    message: expect.stringMatching(/^this service is neither fd-broker run nor a daemon.*omit --self$/),
  })
})
