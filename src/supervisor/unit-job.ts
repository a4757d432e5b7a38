import { startedAs } from '../process/command-line.js'
import { type Starts, shellOf } from './command-probe.js'

const WAIT_MS = 500
const MOST_TEXT = 1 << 20
/** Of the system's manager, or of a user's. */
const NOTIFY_PATH = '/systemd/notify'
const USERS = '/run/user/'
/** An earlier systemctl does not know `whoami`: the last service in the path of the cgroup. */
const FROM_CGROUP =
  "sed -n 's#.*/\\([^/]*\\.service\\)\\(/.*\\)\\{0,1\\}$#\\1#p' /proc/self/cgroup | head -n 1"

/**
 * Whether systemd stops the unit of this process: the signal of a restart is the same, its job is another. False too where systemd cannot be
 * asked or does not answer within 500 ms.
 */
export async function unitStops(children: Starts): Promise<boolean> {
  const { NOTIFY_SOCKET: socket = '' } = startedAs.env
  if (!socket.endsWith(NOTIFY_PATH)) return false
  const systemctl = socket.startsWith(USERS) ? 'systemctl --user' : 'systemctl'
  const text = await outputOf(
    children,
    `exec 2>/dev/null; { ${systemctl} whoami || ${FROM_CGROUP}; } && ${systemctl} list-jobs --no-legend --plain --full`,
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

/** Empty where it fails, or takes too long. */
function outputOf(children: Starts, command: string): Promise<string> {
  return new Promise(resolve => {
    let text = ''
    let kill = () => {}
    const timer = setTimeout(() => {
      kill()
      resolve('')
    }, WAIT_MS)
    const over = (said: string) => {
      clearTimeout(timer)
      resolve(said)
    }
    try {
      const shell = shellOf(children, '/', startedAs.env)
      const running = shell(command, {
        output: bytes => {
          if (text.length < MOST_TEXT) text += bytes
        },
        ended: code => over(code === 0 ? text : ''),
      })
      kill = () => running.kill()
    } catch {
      over('')
    }
  })
}
