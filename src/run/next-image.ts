import { constants } from 'node:os'
import type { Logger } from '../base/logger.js'
import { FdbError } from '../errors.js'
import { executeInstead, type NativeError, numbersOf, type ProgramStart } from '../kernel/index.js'
import { successorCommand } from '../os/command-line.js'
import { NONE_PASSED } from '../os/service-manager/service-manager.js'
import type { Children } from './children.js'
import { exitCodeText } from './exits.js'
import { holdHandledSignals, holdingVariables, RELEASES_SIGNALS } from './held-signals.js'
import { LEFT_VARIABLE, type LeftBehind, written } from './left-behind.js'

const FIRST_FD = 3
/** For one that says whether it could go on. */
const TRIAL_MS = 30_000

/**
 * Goes on as what is installed now, when that has said that it can: the same process. Never resolves. Rejects, with nothing changed,
 * with ERR_FDB_NO_BINARY, ERR_FDB_NO_CWD, ERR_FDB_SPAWN, ERR_FDB_SUCCESSOR_EXITED, ERR_FDB_DEADLINE, and with what `left` throws,
 * which tells what there is to be left at that moment.
 */
export async function goOnAsInstalled(
  left: () => LeftBehind,
  children: Children,
  logger: Logger,
): Promise<never> {
  try {
    const holding = await tryNextImage(left(), children)
    if (holding === null)
      logger.warn(
        {},
        'a signal that comes while the supervisor is replaced may end it: what is installed cannot hold signals',
      )
    using _held = holding && (await holdHandledSignals())
    const all = left()
    logger.info({ replaced: all.replaced }, 'the supervisor is replaced by what is installed now')
    return becomeNextImage(all, holding ?? {})
  } catch (error) {
    const reason = FdbError.from(error)
    logger.error({ err: reason }, 'the supervisor goes on as it is')
    throw reason
  }
}

/** Resolves with the environment in which it holds signals; null: its loader or its release does not do that. */
async function tryNextImage(left: LeftBehind, children: Children): Promise<NodeJS.ProcessEnv | null> {
  const holding = holdingVariables()
  const code = holding === null ? null : await trialOf(left, holding, children)
  if (code === RELEASES_SIGNALS) return holding
  // A loader that refuses the addon says nothing about the program.
  const plain = code === 0 ? code : await trialOf(left, {}, children)
  if (plain === 0) return null
  const why = `${nextCommand('').file}, as which this supervisor was to go on, ended ${exitCodeText(plain)} when it was tried (see its own output): the supervisor goes on as it is`
  throw new FdbError('ERR_FDB_SUCCESSOR_EXITED', why, { details: { code: plain } })
}

/** Starts it as a process of its own, which reads what would be left to it, and says by its exit code whether it could go on. */
async function trialOf(left: LeftBehind, env: NodeJS.ProcessEnv, children: Children): Promise<number> {
  const next = nextCommand(`try:${FIRST_FD}`, env)
  using memory = written(left).memory
  return await new Promise<number>((resolve, reject) => {
    let pid = 0
    const timer = setTimeout(() => {
      children.kill(pid)
      const why = `${next.file}, as which this supervisor was to go on, did not say within ${TRIAL_MS} ms whether it can`
      reject(new FdbError('ERR_FDB_DEADLINE', why))
    }, TRIAL_MS)
    try {
      const start = { ...next, fds: [memory], deathSignal: constants.signals.SIGKILL }
      pid = children.start(start, ended => {
        clearTimeout(timer)
        resolve(ended)
      })
    } catch (error) {
      clearTimeout(timer)
      reject(notStarted(next, error as NativeError))
    }
  })
}

/** Does not return; throws with nothing changed. */
function becomeNextImage(left: LeftBehind, env: NodeJS.ProcessEnv): never {
  const { memory, fds } = written(left)
  try {
    const next = nextCommand(`take:${numbersOf([memory])[0]}`, env)
    try {
      return executeInstead(next, [memory, ...fds])
    } catch (error) {
      throw notStarted(next, error as NativeError)
    }
  } finally {
    memory.close()
  }
}

/** As this process was started, looked up anew. What a service manager has passed is among what is left. */
function nextCommand(order: string, variables: NodeJS.ProcessEnv = {}): ProgramStart {
  const { file, argv0, args, cwd, env } = successorCommand({
    env: { ...NONE_PASSED, ...variables, [LEFT_VARIABLE]: order },
  })
  return { file, cwd, argv: [argv0, ...args], env }
}

function notStarted({ file, cwd }: ProgramStart, cause: NativeError): FdbError {
  const why = `this supervisor cannot go on as ${file} in ${cwd} (${cause.code}): check that it is executable; it goes on as it is`
  return new FdbError('ERR_FDB_SPAWN', why, { cause, details: { file, cwd } })
}
