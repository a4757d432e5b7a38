import { startedAs } from '../os/command-line.js'
import { childShell, type Starts } from '../probing/shell.js'

/** The listeners stay open until the answer; on a machine that is busy systemctl needs seconds. */
const WAIT_MS = 10_000
const MOST_TEXT = 1 << 20
/** Of the system's manager, or of a user's. */
const NOTIFY_PATH = '/systemd/notify'
const USERS = '/run/user/'
/** An earlier systemctl does not know `whoami`: the last service in the path of the cgroup. */
const FROM_CGROUP =
  "sed -n 's#.*/\\([^/]*\\.service\\)\\(/.*\\)\\{0,1\\}$#\\1#p' /proc/self/cgroup | head -n 1"

/**
 * Returns whether systemd stops the unit of this process: the signal of a restart is the same, its job is another. False too where systemd
 * cannot be asked, does not answer within 10 s, or `givenUp` has aborted.
 */
export async function unitStops(children: Starts, givenUp: AbortSignal): Promise<boolean> {
  const { NOTIFY_SOCKET: socket = '' } = startedAs.env
  if (!socket.endsWith(NOTIFY_PATH)) return false
  const systemctl = socket.startsWith(USERS) ? 'systemctl --user' : 'systemctl'
  const text = await outputOf(
    children,
    // systemctl would report its own failure to the unit's socket, and systemd would log that it may not.
    `exec 2>/dev/null; unset NOTIFY_SOCKET; { ${systemctl} whoami || ${FROM_CGROUP}; } && ${systemctl} list-jobs --no-legend --plain --full`,
    givenUp,
  )
  return isStopped(text)
}

/** `text`: the name of the unit, and then the jobs, each with its number, unit, type and state. */
export function isStopped(text: string): boolean {
  const [unit, ...jobs] = text.split('\n').map(line => line.trim())
  return jobs.some(line => {
    const [, name, type] = line.split(/\s+/)
    return name === unit && type === 'stop'
  })
}

/** Empty where it fails, or is given up. */
function outputOf(children: Starts, command: string, givenUp: AbortSignal): Promise<string> {
  return new Promise(resolve => {
    let text = ''
    const late = AbortSignal.any([givenUp, AbortSignal.timeout(WAIT_MS)])
    try {
      const shell = childShell(children, '/', startedAs.env)
      const running = shell(command, {
        output: bytes => {
          if (text.length < MOST_TEXT) text += bytes
        },
        ended: code => resolve(code === 0 ? text : ''),
      })
      late.addEventListener('abort', () => {
        running.kill()
        resolve('')
      })
    } catch {
      resolve('')
    }
  })
}
