import { constants } from 'node:os'
import { FdbError } from '../errors.js'
import { executeInstead, type NativeError, numbersOf, type ProgramStart } from '../kernel/index.js'
import type { Logger } from '../logger.js'
import { successorCommand } from '../process/command-line.js'
import { NONE_PASSED } from '../supervised/told-variables.js'
import type { Children } from './children.js'
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
    await tryNextImage(left(), children)
    const all = left()
    logger.info({ replaced: all.replaced }, 'the supervisor is replaced by what is installed now')
    return becomeNextImage(all)
  } catch (error) {
    const reason = FdbError.from(error)
    logger.error({ err: reason }, 'the supervisor goes on as it is')
    throw reason
  }
}

/** Starts it as a process of its own, which reads what would be left to it, and says whether it could go on. */
async function tryNextImage(left: LeftBehind, children: Children): Promise<void> {
  const next = nextCommand(`try:${FIRST_FD}`)
  using memory = written(left).memory
  const code = await new Promise<number>((resolve, reject) => {
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
  if (code === 0) return
  const how = code > 128 ? `by signal ${code - 128}` : `with code ${code}`
  const why = `${next.file}, as which this supervisor was to go on, ended ${how} when it was tried (see its own output): the supervisor goes on as it is`
  throw new FdbError('ERR_FDB_SUCCESSOR_EXITED', why, { details: { code } })
}

/** Does not return; throws with nothing changed. */
function becomeNextImage(left: LeftBehind): never {
  const { memory, fds } = written(left)
  try {
    const next = nextCommand(`take:${numbersOf([memory])[0]}`)
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
function nextCommand(order: string): ProgramStart {
  const { file, argv0, args, cwd, env } = successorCommand({
    env: { ...NONE_PASSED, [LEFT_VARIABLE]: order },
  })
  return { file, cwd, argv: [argv0, ...args], env }
}

function notStarted({ file, cwd }: ProgramStart, cause: NativeError): FdbError {
  const why = `this supervisor cannot go on as ${file} in ${cwd} (${cause.code}): check that it is executable; it goes on as it is`
  return new FdbError('ERR_FDB_SPAWN', why, { cause, details: { file, cwd } })
}
